package facade_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"net"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/kiosk-shop/kiosk/faasd/edge/internal/facade"
)

// stalled opens calls from an address that each send all of a large message but
// its last byte. It returns where the status of each call that ends comes.
func stalled(t *testing.T, to, from string, calls int) <-chan string {
	t.Helper()
	const size = 200 << 10
	dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
	conn, err := dialer.Dial("tcp", to)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if _, err := conn.Write([]byte(http2.ClientPreface)); err != nil {
		t.Fatal(err)
	}
	framer := http2.NewFramer(conn, conn)
	framer.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	if err := framer.WriteSettings(); err != nil {
		t.Fatal(err)
	}
	var block bytes.Buffer
	encoder := hpack.NewEncoder(&block)
	for i := range calls {
		block.Reset()
		for _, f := range [][2]string{
			{":method", "POST"}, {":scheme", "http"}, {":authority", "x"}, {":path", "/mailer.MailerService/SendEmail"},
			{"content-type", "application/grpc"}, {"te", "trailers"},
		} {
			if err := encoder.WriteField(hpack.HeaderField{Name: f[0], Value: f[1]}); err != nil {
				t.Fatal(err)
			}
		}
		stream := uint32(2*i + 1)
		if err := framer.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, BlockFragment: block.Bytes(), EndHeaders: true}); err != nil {
			t.Fatal(err)
		}
		prefix := binary.BigEndian.AppendUint32([]byte{0}, size)
		if err := framer.WriteData(stream, false, prefix); err != nil {
			t.Fatal(err)
		}
	}
	ended := make(chan string, calls)
	go func() {
		defer close(ended)
		for {
			frame, err := framer.ReadFrame()
			if err != nil {
				return
			}
			switch f := frame.(type) {
			case *http2.MetaHeadersFrame:
				for _, field := range f.Fields {
					if field.Name == "grpc-status" {
						ended <- field.Value
					}
				}
			case *http2.RSTStreamFrame:
				if f.ErrCode != http2.ErrCodeNo {
					ended <- f.ErrCode.String()
				}
			}
		}
	}()
	return ended
}

const unavailable = "14" // the status of a call that is refused for now

// TestStalledMessages stalls more calls than one client, and than everybody, may
// have: those beyond are refused, and others go on.
func TestStalledMessages(t *testing.T) {
	const share = 32
	c, _, server := open(t, facade.Config{ArrivalTime: time.Hour}, says(200, `{}`))
	address := serve(t, server)
	ended := stalled(t, address, "127.0.0.2", 2*share)
	for range share {
		if status := <-ended; status != unavailable {
			t.Errorf("a call beyond one client's share: got %s, want %s", status, unavailable)
		}
	}
	for range 100 {
		if _, err := c.call(t.Context(), "/mailer.MailerService/SendEmail", `{}`); err != nil {
			t.Fatalf("another client: got %v, want nil", err)
		}
	}
	for _, from := range []string{"127.0.0.3", "127.0.0.4", "127.0.0.5"} {
		stalled(t, address, from, share)
	}
	// They arrive when they arrive: one more call is refused once all have.
	for tries := 0; ; tries++ {
		if tries == share-1 {
			t.Fatal("no call is refused, however many stall")
		}
		select {
		case status := <-stalled(t, address, "127.0.0.6", 1):
			if status != unavailable {
				t.Errorf("a call beyond the bound: got %s, want %s", status, unavailable)
			}
			return
		case <-time.After(2 * time.Second):
		}
	}
}

// TestStalledMessagesEnd: time ends what stalls, and makes room.
func TestStalledMessagesEnd(t *testing.T) {
	const calls = 32
	_, _, server := open(t, facade.Config{ArrivalTime: 3 * time.Second}, says(200, `{}`))
	address := serve(t, server)
	ended := stalled(t, address, "127.0.0.2", calls)
	for range calls {
		if status, ok := <-ended; !ok || status == unavailable {
			t.Errorf("a call that stalls: got %q, want it ended, not refused", status)
		}
	}
	again := dial(t, address, insecure.NewCredentials())
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	if _, err := again.call(ctx, "/mailer.MailerService/SendEmail", `{}`); err != nil {
		t.Errorf("once there is room: got %v, want nil", err)
	}
}
