package nats_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	natsgo "github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	kiosk "github.com/kiosk-shop/kiosk/shared"
	"github.com/kiosk-shop/kiosk/shared/nats"
	"github.com/kiosk-shop/kiosk/shared/outbox"
	"github.com/kiosk-shop/kiosk/shared/testservers"
)

func open(t *testing.T, url string) *nats.Conn {
	t.Helper()
	conn, err := nats.Open(url, t.Name(), 1)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	testservers.Eventually(t, "a connection to NATS", func() error { return conn.Ready(t.Context()) })
	return conn
}

// subject is one of the shop's own that no other test uses.
func subject() string { return "order.test_" + string(kiosk.NewID()) }

func publish(t *testing.T, conn *nats.Conn, subject, payload string) outbox.Entry {
	t.Helper()
	e := outbox.Entry{ID: kiosk.NewID(), Kind: outbox.Event, Subject: subject, Payload: []byte(payload), Traceparent: "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"}
	if confirmed, err := conn.Deliver(t.Context(), e); err != nil || !confirmed {
		t.Fatalf("Deliver = %t, %v", confirmed, err)
	}
	return e
}

// seen collects what a handler was called with.
type seen struct {
	mu     sync.Mutex
	events []string
}

func (s *seen) add(event string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.events = append(s.events, event)
	n := 0
	for _, e := range s.events {
		if e == event {
			n++
		}
	}
	return n
}

func (s *seen) count(event string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for _, e := range s.events {
		if e == event {
			n++
		}
	}
	return n
}

func (s *seen) expect(e outbox.Entry, times int) func() error {
	return func() error {
		if n := s.count(string(e.ID)); n != times {
			return fmt.Errorf("the event came %d times, want %d", n, times)
		}
		return nil
	}
}

func run(t *testing.T, conn *nats.Conn, subject string, handle nats.Handler) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	consumer := conn.NewConsumer("test-"+string(kiosk.NewID()), subject, handle, func(err error) bool { return errors.Is(err, errPoison) })
	go func() { defer close(done); consumer.Run(ctx, 2) }()
	stop = func() { cancel(); <-done }
	t.Cleanup(stop)
	return stop
}

var errPoison = errors.New("poison")

func TestPlainSubscribersGetTheSameEvent(t *testing.T) {
	url := testservers.NATS(t)
	conn, subject := open(t, url), subject()
	plain, err := natsgo.Connect(url)
	if err != nil {
		t.Fatal(err)
	}
	defer plain.Close()
	sub, err := plain.SubscribeSync(subject)
	if err == nil {
		err = plain.Flush()
	}
	if err != nil {
		t.Fatal(err)
	}
	e := publish(t, conn, subject, `{"order_id":"x"}`)
	msg, err := sub.NextMsg(5 * time.Second)
	if err != nil {
		t.Fatal(err)
	}
	if string(msg.Data) != `{"order_id":"x"}` || msg.Header.Get("Nats-Msg-Id") != string(e.ID) || msg.Header.Get("traceparent") != e.Traceparent {
		t.Errorf("%s %v", msg.Data, msg.Header)
	}
}

func TestSecondPublishIsHarmless(t *testing.T) {
	conn, subject := open(t, testservers.NATS(t)), subject()
	var got seen
	stop := run(t, conn, subject, func(_ context.Context, event string, _ []byte) error { got.add(event); return nil })
	e := publish(t, conn, subject, "{}")
	for range 5 {
		if confirmed, err := conn.Deliver(t.Context(), e); err != nil || !confirmed {
			t.Fatal(confirmed, err)
		}
	}
	last := publish(t, conn, subject, "{}")
	testservers.Eventually(t, "the event after it", got.expect(last, 1))
	stop() // the handlers run side by side: those that began earlier may end later
	if n := got.count(string(e.ID)); n != 1 {
		t.Errorf("the event came %d times", n)
	}
}

func TestFailuresAreTriedAgain(t *testing.T) {
	conn, subject := open(t, testservers.NATS(t)), subject()
	var got seen
	run(t, conn, subject, func(ctx context.Context, event string, _ []byte) error {
		if kiosk.Traceparent(ctx) == "" {
			t.Error("the trace ends at the consumer")
		}
		switch got.add(event) {
		case 1:
			return kiosk.Unavailable(errors.New("database away"))
		case 2:
			panic("a bug")
		}
		return nil
	})
	e := publish(t, conn, subject, "{}")
	testservers.Eventually(t, "the third attempt", got.expect(e, 3))
}

func TestPoisonBecomesADeadLetter(t *testing.T) {
	url := testservers.NATS(t)
	conn, subject := open(t, url), subject()
	plain, err := natsgo.Connect(url)
	if err != nil {
		t.Fatal(err)
	}
	defer plain.Close()
	js, err := jetstream.New(plain)
	if err != nil {
		t.Fatal(err)
	}
	var got seen
	run(t, conn, subject, func(_ context.Context, event string, payload []byte) error {
		got.add(event)
		if string(payload) == "poison" {
			return errors.Join(errPoison, errors.New("line one\nline two"))
		}
		return errors.New("a bug that stays")
	})
	poison, bug := publish(t, conn, subject, "poison"), publish(t, conn, subject, "{}")
	for _, want := range []struct {
		outbox.Entry
		attempts string
	}{{poison, "1"}, {bug, "5"}} {
		var letter *jetstream.RawStreamMsg
		testservers.Eventually(t, "the dead letter", func() error {
			stream, err := js.Stream(t.Context(), "DEAD_LETTERS")
			if err != nil {
				return err
			}
			for seq := uint64(1); ; seq++ {
				msg, err := stream.GetMsg(t.Context(), seq, jetstream.WithGetMsgSubject("dead."+subject))
				if err != nil {
					return err
				}
				if msg.Header.Get("Kiosk-Event") == string(want.ID) {
					letter = msg
					return nil
				}
				seq = msg.Sequence
			}
		})
		if string(letter.Data) != string(want.Payload) || letter.Header.Get("Kiosk-Subject") != subject || letter.Header.Get("Kiosk-Attempts") != want.attempts ||
			letter.Header.Get("Kiosk-Reason") == "" || strings.Contains(letter.Header.Get("Kiosk-Reason"), "\n") {
			t.Errorf("%s %v", letter.Data, letter.Header)
		}
	}
	if n := got.count(string(poison.ID)); n != 1 {
		t.Errorf("the poison was tried %d times", n)
	}
}

func TestRestartOfTheServer(t *testing.T) {
	dir := t.TempDir()
	server := testservers.StartNATS(t, "127.0.0.1:0", dir)
	address := server.Addr().String()
	conn, subject := open(t, server.ClientURL()), subject()
	var got seen
	run(t, conn, subject, func(_ context.Context, event string, _ []byte) error { got.add(event); return nil })
	before := publish(t, conn, subject, "{}")
	testservers.Eventually(t, "the event before", got.expect(before, 1))

	server.Shutdown()
	server.WaitForShutdown()
	testservers.Eventually(t, "the loss to be noticed", func() error {
		if conn.Ready(t.Context()) == nil {
			return errors.New("still ready")
		}
		return nil
	})
	if _, err := conn.Deliver(t.Context(), outbox.Entry{ID: kiosk.NewID(), Subject: subject}); !kiosk.KindUnavailable.Is(err) {
		t.Errorf("with NATS away: %v", err)
	}

	testservers.StartNATS(t, address, dir)
	testservers.Eventually(t, "NATS to be back", func() error { return conn.Ready(t.Context()) })
	after := publish(t, conn, subject, "{}")
	testservers.Eventually(t, "the event after", got.expect(after, 1))
}

func TestStopFinishesWhatIsUnderWay(t *testing.T) {
	conn, subject := open(t, testservers.NATS(t)), subject()
	entered, release := make(chan struct{}), make(chan struct{})
	finished := false
	stop := run(t, conn, subject, func(ctx context.Context, _ string, _ []byte) error {
		close(entered)
		<-release
		finished = ctx.Err() == nil
		return nil
	})
	publish(t, conn, subject, "{}")
	<-entered
	go close(release)
	stop()
	if !finished {
		t.Error("the handler was cut off")
	}
}

func TestDeadLetters(t *testing.T) {
	conn, subject := open(t, testservers.NATS(t)), subject()
	var got seen
	var healed atomic.Bool
	run(t, conn, subject, func(_ context.Context, event string, _ []byte) error {
		got.add(event)
		if healed.Load() {
			return nil
		}
		return errPoison
	})
	first, second := publish(t, conn, subject, "first"), publish(t, conn, subject, "second")
	find := func(e outbox.Entry) (letter nats.DeadLetter, err error) {
		letters, err := conn.DeadLetters(t.Context(), 0, 1000)
		for _, l := range letters {
			if l.Event == string(e.ID) {
				return l, nil
			}
		}
		return letter, errors.Join(err, errors.New("there is no such letter"))
	}
	var letter, dropped nats.DeadLetter
	testservers.Eventually(t, "both dead letters", func() (err error) {
		if letter, err = find(first); err == nil {
			dropped, err = find(second)
		}
		return err
	})
	if string(letter.Payload) != "first" || letter.Subject != subject || letter.Reason != "poison" || letter.Attempts != 1 || letter.At.IsZero() {
		t.Errorf("%+v", letter)
	}
	if one, err := conn.DeadLetter(t.Context(), letter.Number); err != nil || one.Event != letter.Event {
		t.Errorf("%+v, %v", one, err)
	}
	if few, err := conn.DeadLetters(t.Context(), 0, 1); err != nil || len(few) != 1 {
		t.Errorf("%d letters, %v, want the one asked for", len(few), err)
	}

	// A replay that fails again is a dead letter again.
	if err := conn.Replay(t.Context(), letter.Number); err != nil {
		t.Fatal(err)
	}
	testservers.Eventually(t, "the letter after the replay", func() error {
		again, err := find(first)
		if err == nil && again.Number == letter.Number {
			err = errors.New("the old letter is still there")
		}
		letter = again
		return err
	})
	healed.Store(true)
	if err := conn.Replay(t.Context(), letter.Number); err != nil {
		t.Fatal(err)
	}
	testservers.Eventually(t, "the event, by its own ID, a third time", got.expect(first, 3))

	if err := conn.Drop(t.Context(), dropped.Number); err != nil {
		t.Fatal(err)
	}
	for _, e := range []outbox.Entry{first, second} {
		if l, err := find(e); err == nil {
			t.Errorf("still there: %+v", l)
		}
	}
	for name, err := range map[string]error{
		"show":   func() error { _, err := conn.DeadLetter(t.Context(), dropped.Number); return err }(),
		"replay": conn.Replay(t.Context(), dropped.Number),
		"drop":   conn.Drop(t.Context(), dropped.Number),
	} {
		if !kiosk.KindNotFound.Is(err) {
			t.Errorf("%s of a letter that is gone: %v", name, err)
		}
	}
}
