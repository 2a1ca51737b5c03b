package mongodb_test

import (
	"context"
	"io"
	"net"
	"net/url"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/kiosk-shop/kiosk/faasd/testkit/testservers"
	kiosk "github.com/kiosk-shop/kiosk/shared"
	"github.com/kiosk-shop/kiosk/shared/mail"
	"github.com/kiosk-shop/kiosk/shared/mongodb"
)

func TestMain(m *testing.M) { testservers.Main(m) }

// swallower passes bytes on to a server until it is made to hang: from then on
// it takes them, and nothing comes of it.
type swallower struct {
	address string
	hangs   atomic.Bool
}

func newSwallower(t *testing.T, server string) *swallower {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	s := &swallower{address: l.Addr().String()}
	go func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			go s.pass(client, server)
		}
	}()
	return s
}

func (s *swallower) pass(client net.Conn, server string) {
	defer client.Close()
	conn, err := net.Dial("tcp", server)
	if err != nil {
		return
	}
	defer conn.Close()
	go func() { _, _ = io.Copy(client, conn) }()
	buffer := make([]byte, 64<<10)
	for {
		n, err := client.Read(buffer)
		if err != nil {
			return
		}
		if s.hangs.Load() {
			continue
		}
		if _, err := conn.Write(buffer[:n]); err != nil {
			return
		}
	}
}

// open opens a database behind a swallower.
func open(t *testing.T) (*mongodb.DB, *swallower) {
	t.Helper()
	database := testservers.Mongo(t)
	u, err := url.Parse(database.URI)
	if err != nil {
		t.Fatal(err)
	}
	if query := u.Query(); query.Get("tls") != "" || u.Scheme != "mongodb" {
		t.Skip("this needs a server that is reached by its address")
	}
	between := newSwallower(t, u.Host)
	// Nothing else may be found out from the server, or it would be reached
	// without us.
	u.Host, u.Path, u.RawQuery = between.address, "/", "directConnection=true"
	db, err := mongodb.Open(u.String(), database.Name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	return db, between
}

// A transaction that meets a server that hangs ends with its caller's time, not
// with what the driver would give its abort on top.
func TestTransactEndsWithItsCaller(t *testing.T) {
	db, between := open(t)
	claim := func(ctx context.Context) error {
		now := time.Now()
		_, _, err := db.Mails().Claim(ctx, mail.Record{Key: string(kiosk.NewID()), State: mail.Sending, ExpiresAt: now.Add(time.Hour)}, now)
		return err
	}
	if err := db.Transact(t.Context(), claim); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	start := time.Now()
	err := db.Transact(ctx, func(ctx context.Context) error {
		if err := claim(ctx); err != nil {
			return err
		}
		between.hangs.Store(true)
		return claim(ctx)
	})
	if !kiosk.IsKind(err, kiosk.KindUnavailable) {
		t.Errorf("transaction: got %v, want it unavailable", err)
	}
	// An abort of its own would take the driver 5 s.
	if took := time.Since(start); took > 5500*time.Millisecond {
		t.Errorf("a transaction of one second: got %v, want at most 5.5s", took)
	}
}

// faasd removes a function's network before it asks it to end, and leaves it
// 30 s for all it has to do.
func TestCloseWaitsForNobody(t *testing.T) {
	db, between := open(t)
	if err := db.Ready(t.Context()); err != nil {
		t.Fatal(err)
	}
	between.hangs.Store(true)
	start := time.Now()
	_ = db.Close() // the server cannot be reached
	// The driver would take 5 s.
	if took := time.Since(start); took > 4500*time.Millisecond {
		t.Errorf("Close: got %v, want at most 4.5s", took)
	}
}

// Several functions in one process make the same indexes at the same time; the race
// detector sees whether they share what the driver changes.
func TestIndexesAtOnce(t *testing.T) {
	server := testservers.Mongo(t)
	var ready sync.WaitGroup
	for range 4 {
		db, err := mongodb.Open(server.URI, server.Name)
		if err != nil {
			t.Fatal(err)
		}
		defer db.Close()
		ready.Go(func() {
			if err := db.Ready(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	ready.Wait()
}
