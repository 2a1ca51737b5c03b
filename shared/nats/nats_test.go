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

	"github.com/kiosk-shop/kiosk/faasd/testkit/testservers"
	kiosk "github.com/kiosk-shop/kiosk/shared"
	"github.com/kiosk-shop/kiosk/shared/nats"
	"github.com/kiosk-shop/kiosk/shared/outbox"
)

func open(t *testing.T, url string) *nats.Conn {
	t.Helper()
	conn, err := nats.Open(url, t.Name(), nats.Options{})
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
	e := entry(subject, payload)
	if err := conn.Publish(t.Context(), []outbox.Entry{e})[0]; err != nil {
		t.Fatal(err)
	}
	return e
}

func entry(subject, payload string) outbox.Entry {
	return outbox.Entry{
		ID: kiosk.NewID(), Event: &outbox.Event{Subject: subject, Payload: []byte(payload)},
		Trace: kiosk.Trace{Parent: "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", State: "a=1"},
	}
}

// each makes a Handler of a function that handles one event.
func each(handle func(ctx context.Context, m nats.Message) error) nats.Handler {
	return func(ctx context.Context, batch []nats.Message) []error {
		errs := make([]error, len(batch))
		for i, m := range batch {
			errs[i] = handle(ctx, m)
		}
		return errs
	}
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
	go func() { defer close(done); consumer.Run(ctx, 8) }()
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
	msg, err := sub.NextMsg(time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	if string(msg.Data) != `{"order_id":"x"}` || msg.Header.Get("Nats-Msg-Id") != string(e.ID) || msg.Header.Get("traceparent") != e.Trace.Parent || msg.Header.Get("tracestate") != e.Trace.State {
		t.Errorf("message: got %s %v, want the event with its id and its trace", msg.Data, msg.Header)
	}
}

func TestSecondPublishIsHarmless(t *testing.T) {
	conn, subject := open(t, testservers.NATS(t)), subject()
	var got seen
	stop := run(t, conn, subject, each(func(_ context.Context, m nats.Message) error { got.add(m.Event); return nil }))
	e := publish(t, conn, subject, "{}")
	for range 5 {
		if err := conn.Publish(t.Context(), []outbox.Entry{e})[0]; err != nil {
			t.Fatal(err)
		}
	}
	last := publish(t, conn, subject, "{}")
	testservers.Eventually(t, "the event after it", got.expect(last, 1))
	stop()
	if n := got.count(string(e.ID)); n != 1 {
		t.Errorf("deliveries: got %d, want 1", n)
	}
}

func TestFailuresAreTriedAgain(t *testing.T) {
	conn, subject := open(t, testservers.NATS(t)), subject()
	var got seen
	run(t, conn, subject, each(func(_ context.Context, m nats.Message) error {
		if m.Trace.Parent == "" || m.Trace.State == "" {
			t.Errorf("trace: got %+v, want the event's", m.Trace)
		}
		switch got.add(m.Event) {
		case 1:
			return kiosk.Unavailable(errors.New("database unavailable"))
		case 2:
			panic("a bug")
		}
		return nil
	}))
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
	run(t, conn, subject, each(func(_ context.Context, m nats.Message) error {
		got.add(m.Event)
		if string(m.Payload) == "poison" {
			return errors.Join(errPoison, errors.New("line one\nline two"))
		}
		return errors.New("a bug that stays")
	}))
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
		if string(letter.Data) != string(want.Event.Payload) || letter.Header.Get("Kiosk-Subject") != subject || letter.Header.Get("Kiosk-Attempts") != want.attempts ||
			letter.Header.Get("Kiosk-Reason") == "" || strings.Contains(letter.Header.Get("Kiosk-Reason"), "\n") {
			t.Errorf("dead letter: got %s %v, want the event with where it was, why and how often", letter.Data, letter.Header)
		}
	}
	if n := got.count(string(poison.ID)); n != 1 {
		t.Errorf("tries of the poison: got %d, want 1", n)
	}
}

// TestBatches: what arrives while a batch is handled is the next batch.
func TestBatches(t *testing.T) {
	conn, subject := open(t, testservers.NATS(t)), subject()
	entered, release := make(chan struct{}), make(chan struct{})
	var mu sync.Mutex
	var sizes []int
	total := 0
	run(t, conn, subject, func(_ context.Context, batch []nats.Message) []error {
		mu.Lock()
		first := len(sizes) == 0
		sizes = append(sizes, len(batch))
		total += len(batch)
		mu.Unlock()
		if first {
			close(entered)
			<-release
		}
		time.Sleep(50 * time.Millisecond) // work, during which the next events arrive
		return make([]error, len(batch))
	})
	publish(t, conn, subject, "{}")
	<-entered
	var more []outbox.Entry
	for range 32 {
		more = append(more, entry(subject, "{}"))
	}
	if err := errors.Join(conn.Publish(t.Context(), more)...); err != nil {
		t.Fatal(err)
	}
	close(release)
	testservers.Eventually(t, "all events", func() error {
		mu.Lock()
		defer mu.Unlock()
		if total != 33 {
			return fmt.Errorf("%d events handled, want 33", total)
		}
		return nil
	})
	mu.Lock()
	defer mu.Unlock()
	for _, n := range sizes {
		if n > 8 {
			t.Errorf("a batch of %d, want at most 8", n)
		}
	}
	if len(sizes) > 12 {
		t.Errorf("33 events were handled in %d batches: %v, want batches of up to 8", len(sizes), sizes)
	}
}

// TestPoisonSparesItsNeighbours: one event of a batch that makes the handler
// panic is handled by itself.
func TestPoisonSparesItsNeighbours(t *testing.T) {
	conn, subject := open(t, testservers.NATS(t)), subject()
	entered, release := make(chan struct{}), make(chan struct{})
	var once sync.Once
	var got seen
	run(t, conn, subject, func(_ context.Context, batch []nats.Message) []error {
		once.Do(func() { close(entered); <-release })
		for _, m := range batch {
			if string(m.Payload) == "poison" {
				panic("a bug")
			}
		}
		for _, m := range batch {
			got.add(m.Event)
		}
		return make([]error, len(batch))
	})
	publish(t, conn, subject, "{}")
	<-entered
	var batch []outbox.Entry
	for _, payload := range []string{"{}", "poison", "{}"} {
		batch = append(batch, entry(subject, payload))
	}
	if err := errors.Join(conn.Publish(t.Context(), batch)...); err != nil {
		t.Fatal(err)
	}
	close(release)
	testservers.Eventually(t, "the event before", got.expect(batch[0], 1))
	testservers.Eventually(t, "the event after", got.expect(batch[2], 1))
}

// TestFullStream: a full stream refuses the new and keeps the old, and room is
// made of what was handled.
func TestFullStream(t *testing.T) {
	server := testservers.StartNATS(t, "127.0.0.1:0", t.TempDir())
	conn, err := nats.Open(server.ClientURL(), t.Name(), nats.Options{EventBytes: 64 << 10})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	testservers.Eventually(t, "a connection to NATS", func() error { return conn.Ready(t.Context()) })
	subject := subject()
	var got seen
	var block atomic.Bool
	block.Store(true)
	run(t, conn, subject, each(func(_ context.Context, m nats.Message) error {
		if block.Load() {
			return kiosk.Unavailable(errors.New("not yet"))
		}
		got.add(m.Event)
		return nil
	}))
	payload := strings.Repeat("x", 1000)
	var stored []outbox.Entry
	for range 200 {
		e := entry(subject, payload)
		if err := conn.Publish(t.Context(), []outbox.Entry{e})[0]; err != nil {
			if !kiosk.IsKind(err, kiosk.KindUnavailable) {
				t.Fatalf("a full stream: got %v, want it unavailable", err)
			}
			break
		}
		stored = append(stored, e)
	}
	if len(stored) == 200 {
		t.Fatal("the stream is never full")
	}
	// Nothing was handled, so nothing may go.
	if err := conn.MakeRoom(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := conn.Publish(t.Context(), []outbox.Entry{entry(subject, payload)})[0]; err == nil {
		t.Fatal("an event was stored in the place of one that nobody has handled")
	}
	block.Store(false)
	for i, e := range stored {
		testservers.Eventually(t, fmt.Sprintf("event %d of %d", i+1, len(stored)), got.expect(e, 1))
	}
	testservers.Eventually(t, "room for a new event", func() error {
		return errors.Join(conn.MakeRoom(t.Context()), conn.Publish(t.Context(), []outbox.Entry{entry(subject, payload)})[0])
	})
}

func TestRestartOfTheServer(t *testing.T) {
	dir := t.TempDir()
	server := testservers.StartNATS(t, "127.0.0.1:0", dir)
	address := server.Addr().String()
	conn, subject := open(t, server.ClientURL()), subject()
	var got seen
	run(t, conn, subject, each(func(_ context.Context, m nats.Message) error { got.add(m.Event); return nil }))
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
	for name, err := range map[string]error{
		"Publish": conn.Publish(t.Context(), []outbox.Entry{entry(subject, "{}")})[0],
		"Send":    conn.Send(t.Context(), entry(subject, "{}")),
	} {
		if !kiosk.IsKind(err, kiosk.KindUnavailable) {
			t.Errorf("%s without NATS: got %v, want it unavailable", name, err)
		}
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
	stop := run(t, conn, subject, func(ctx context.Context, batch []nats.Message) []error {
		close(entered)
		<-release
		finished = ctx.Err() == nil
		return make([]error, len(batch))
	})
	publish(t, conn, subject, "{}")
	<-entered
	go close(release)
	stop()
	if !finished {
		t.Error("the handler: got it cut off, want it finished")
	}
}

func TestDeadLetters(t *testing.T) {
	conn, subject := open(t, testservers.NATS(t)), subject()
	var got seen
	var healed atomic.Bool
	run(t, conn, subject, each(func(_ context.Context, m nats.Message) error {
		got.add(m.Event)
		if healed.Load() {
			return nil
		}
		return errPoison
	}))
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
		t.Errorf("dead letter: got %+v, want the first event, poison, tried once", letter)
	}
	if one, err := conn.DeadLetter(t.Context(), letter.Number); err != nil || one.Event != letter.Event {
		t.Errorf("DeadLetter: got %+v, %v, want %s", one, err, letter.Event)
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
			t.Errorf("after it was replayed or dropped: got %+v, want none", l)
		}
	}
	for name, err := range map[string]error{
		"show":   func() error { _, err := conn.DeadLetter(t.Context(), dropped.Number); return err }(),
		"replay": conn.Replay(t.Context(), dropped.Number),
		"drop":   conn.Drop(t.Context(), dropped.Number),
	} {
		if !kiosk.IsKind(err, kiosk.KindNotFound) {
			t.Errorf("%s of a dead letter that is gone: got %v, want it not found", name, err)
		}
	}
}
