package shop

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	kiosk "github.com/kiosk-shop/kiosk/shared"
	"github.com/kiosk-shop/kiosk/shared/inventory"
	"github.com/kiosk-shop/kiosk/shared/order"
)

func TestPlace(t *testing.T) {
	s := open(t)
	u, actor := s.register(t, "ada@example.com")
	pen, ink := s.product(t, 5), s.product(t, 5)
	draft := order.Draft{Total: "6.0", Lines: []order.DraftLine{{ProductID: pen.ID, Quantity: 1}, {ProductID: ink.ID, Quantity: 1}, {ProductID: pen.ID, Quantity: 2}}}
	o, replayed, err := s.Placing().Place(t.Context(), actor, draft)
	if err != nil || replayed {
		t.Fatal(replayed, err)
	}
	if o.UserID != u.ID || o.Status != order.Pending || o.Stock != order.StockPending || o.Total != 600 || o.Currency != "USD" || len(o.Lines) != 2 || len(o.History) != 1 {
		t.Errorf("Place: got %+v, want a pending order of 6.00 USD", o)
	}
	for _, line := range o.Lines {
		if want := map[kiosk.ID]int{pen.ID: 3, ink.ID: 1}[line.ProductID]; line.Quantity != want || line.Name != "Pen" || line.UnitPrice != 150 {
			t.Errorf("line: got %+v, want the product as it is now", line)
		}
	}
	stored, err := s.OrderLookup().Get(t.Context(), actor, o.ID)
	if err != nil || fmt.Sprint(stored) != fmt.Sprint(o) {
		t.Errorf("stored: got %+v, %v, want %+v", stored, err, o)
	}
	// A later price is not this order's.
	if _, err := s.Catalogue().Replace(t.Context(), admin, pen.ID, nil, inventory.Details{Name: "Quill", Category: "paper", Stock: new(5), Price: "9"}); err != nil {
		t.Fatal(err)
	}
	if stored, err := s.OrderLookup().Get(t.Context(), actor, o.ID); err != nil || stored.Total != 600 {
		t.Errorf("after a change of the price: got %+v, %v, want the total of before", stored, err)
	}
}

func TestPlaceRefuses(t *testing.T) {
	s := open(t)
	u, actor := s.register(t, "ada@example.com")
	_, stranger := s.register(t, "bob@example.com")
	pen := s.product(t, 5)
	one := []order.DraftLine{{ProductID: pen.ID, Quantity: 1}}
	for name, test := range map[string]struct {
		actor kiosk.Actor
		draft order.Draft
		want  kiosk.Kind
	}{
		"nothing":                   {actor, order.Draft{}, kiosk.KindInvalid},
		"too many lines":            {actor, order.Draft{Lines: make([]order.DraftLine, order.MaxLines+1)}, kiosk.KindInvalid},
		"none of it":                {actor, order.Draft{Lines: []order.DraftLine{{ProductID: pen.ID}}}, kiosk.KindInvalid},
		"less than none":            {actor, order.Draft{Lines: []order.DraftLine{{ProductID: pen.ID, Quantity: -1}}}, kiosk.KindInvalid},
		"too much":                  {actor, order.Draft{Lines: []order.DraftLine{{ProductID: pen.ID, Quantity: order.MaxQuantity + 1}}}, kiosk.KindInvalid},
		"too much in two lines":     {actor, order.Draft{Lines: []order.DraftLine{{ProductID: pen.ID, Quantity: order.MaxQuantity}, {ProductID: pen.ID, Quantity: 1}}}, kiosk.KindInvalid},
		"no product":                {actor, order.Draft{Lines: []order.DraftLine{{ProductID: kiosk.NewID(), Quantity: 1}}}, kiosk.KindInvalid},
		"no identifier":             {actor, order.Draft{Lines: []order.DraftLine{{ProductID: "x", Quantity: 1}}}, kiosk.KindInvalid},
		"another total":             {actor, order.Draft{Lines: one, Total: "1.49"}, kiosk.KindInvalid},
		"a total of three decimals": {actor, order.Draft{Lines: one, Total: "1.505"}, kiosk.KindInvalid},
		"for somebody else":         {stranger, order.Draft{Lines: one, UserID: u.ID}, kiosk.KindForbidden},
		"for nobody":                {admin, order.Draft{Lines: one, UserID: kiosk.NewID()}, kiosk.KindInvalid},
		"for no identifier":         {admin, order.Draft{Lines: one, UserID: "x"}, kiosk.KindInvalid},
		"by a service for whom":     {kiosk.Service(), order.Draft{Lines: one}, kiosk.KindInvalid},
	} {
		_, _, err := s.Placing().Place(t.Context(), test.actor, test.draft)
		expectKind(t, err, test.want, name)
	}
	if orders, err := s.OrderLookup().List(t.Context(), admin, order.Query{Page: kiosk.Page{Number: 1, Limit: 10}}); err != nil || orders.Total != 0 {
		t.Errorf("stored: got %d orders, %v, want none", orders.Total, err)
	}
	if o, _, err := s.Placing().Place(t.Context(), admin, order.Draft{Lines: one, UserID: u.ID}); err != nil || o.UserID != u.ID {
		t.Errorf("an administrator, for a customer: got %+v, %v, want the customer's order", o, err)
	}
}

func TestIdempotencyKey(t *testing.T) {
	s := open(t)
	_, actor := s.register(t, "ada@example.com")
	_, other := s.register(t, "bob@example.com")
	pen := s.product(t, 50)
	draft := order.Draft{Key: "key 1", Lines: []order.DraftLine{{ProductID: pen.ID, Quantity: 1}}}
	first, replayed, err := s.Placing().Place(t.Context(), actor, draft)
	if err != nil || replayed {
		t.Fatal(replayed, err)
	}
	again, replayed, err := s.Placing().Place(t.Context(), actor, draft)
	if err != nil || !replayed || again.ID != first.ID {
		t.Errorf("again: %s, %t, %v, want %s", again.ID, replayed, err, first.ID)
	}
	changed := draft
	changed.Lines = []order.DraftLine{{ProductID: pen.ID, Quantity: 2}}
	_, _, err = s.Placing().Place(t.Context(), actor, changed)
	expectKind(t, err, kiosk.KindInvalid, "the key with another body")
	if o, replayed, err := s.Placing().Place(t.Context(), other, draft); err != nil || replayed || o.ID == first.ID {
		t.Errorf("another user's key: got %s, %t, %v, want a new order", o.ID, replayed, err)
	}
	// What was refused did not use the key up.
	refused := order.Draft{Key: "key 2", Total: "1", Lines: draft.Lines}
	_, _, err = s.Placing().Place(t.Context(), actor, refused)
	expectKind(t, err, kiosk.KindInvalid, "a wrong total")
	if _, replayed, err := s.Placing().Place(t.Context(), actor, order.Draft{Key: "key 2", Lines: draft.Lines}); err != nil || replayed {
		t.Errorf("a key after a refusal: got %t, %v, want a new order", replayed, err)
	}
}

// TestIdempotencyKeyAtOnce races without the lock, as if Redis were unavailable: the
// unique key in the transaction decides.
func TestIdempotencyKeyAtOnce(t *testing.T) {
	s := open(t)
	_, actor := s.register(t, "ada@example.com")
	pen := s.product(t, 50)
	placing := s.Placing()
	placing.Locks = noLocks{}
	draft := order.Draft{Key: "key", Lines: []order.DraftLine{{ProductID: pen.ID, Quantity: 1}}}
	var wg sync.WaitGroup
	ids := make([]kiosk.ID, 8)
	for i := range ids {
		wg.Go(func() {
			o, _, err := placing.Place(t.Context(), actor, draft)
			if err != nil {
				t.Error(err)
			}
			ids[i] = o.ID
		})
	}
	wg.Wait()
	for _, id := range ids {
		if id != ids[0] {
			t.Errorf("one key: got the orders %v, want one", ids)
		}
	}
	if orders, err := s.OrderLookup().List(t.Context(), actor, order.Query{Page: kiosk.Page{Number: 1, Limit: 10}}); err != nil || orders.Total != 1 {
		t.Errorf("stored: got %d orders, %v, want 1", orders.Total, err)
	}
}

type noLocks struct{}

func (noLocks) Lock(context.Context, string) (func(), error) { return func() {}, nil }

func TestFulfil(t *testing.T) {
	s := open(t)
	_, actor := s.register(t, "ada@example.com")
	pen, ink := s.product(t, 5), s.product(t, 1)

	taken := s.fulfil(t, s.place(t, actor, order.DraftLine{ProductID: pen.ID, Quantity: 2}, order.DraftLine{ProductID: ink.ID, Quantity: 1}))
	if taken.Status != order.Pending || taken.Stock != order.StockTaken || len(taken.History) != 2 || taken.History[1].By != kiosk.ServiceID {
		t.Errorf("got %+v, want its stock taken by the service", taken)
	}
	if a, b := s.stock(t, pen.ID), s.stock(t, ink.ID); a != 3 || b != 0 {
		t.Errorf("left: %d and %d, want 3 and 0", a, b)
	}

	short := s.fulfil(t, s.place(t, actor, order.DraftLine{ProductID: pen.ID, Quantity: 1}, order.DraftLine{ProductID: ink.ID, Quantity: 1}))
	if short.Status != order.Cancelled || short.Stock != order.StockShort || short.Reason != order.ReasonOutOfStock {
		t.Errorf("got %+v, want it cancelled, out of stock", short)
	}
	if a, b := s.stock(t, pen.ID), s.stock(t, ink.ID); a != 3 || b != 0 {
		t.Errorf("left: %d and %d, want what was left before", a, b)
	}
	s.expectMails(t, "ada@example.com", welcomed, confirmed, apologized)

	// An event that comes again, alone or in a batch, moves nothing.
	for range 2 {
		events := []order.Event{{OrderID: taken.ID}, {OrderID: short.ID}, {OrderID: taken.ID}}
		if err := errors.Join(s.Fulfilment().Fulfil(t.Context(), events)...); err != nil {
			t.Error(err)
		}
	}
	if a, b := s.stock(t, pen.ID), s.stock(t, ink.ID); a != 3 || b != 0 {
		t.Errorf("left: %d and %d, want what was left before", a, b)
	}
	s.expectMails(t, "ada@example.com", welcomed, confirmed, apologized)
}

// TestFulfilABatch: who came first is served first, all lines of an order or
// none, and one transaction is enough for all.
func TestFulfilABatch(t *testing.T) {
	s := open(t)
	_, actor := s.register(t, "ada@example.com")
	pen, ink := s.product(t, 5), s.product(t, 2)
	var events []order.Event
	place := func(lines ...order.DraftLine) kiosk.ID {
		t.Helper()
		o := s.place(t, actor, lines...)
		events = append(events, order.Event{OrderID: o.ID})
		return o.ID
	}
	want := map[kiosk.ID]order.Stock{
		place(order.DraftLine{ProductID: pen.ID, Quantity: 2}):                                                  order.StockTaken,
		place(order.DraftLine{ProductID: pen.ID, Quantity: 2}, order.DraftLine{ProductID: ink.ID, Quantity: 3}): order.StockShort, // of ink
		place(order.DraftLine{ProductID: pen.ID, Quantity: 2}, order.DraftLine{ProductID: ink.ID, Quantity: 2}): order.StockTaken,
		place(order.DraftLine{ProductID: pen.ID, Quantity: 2}):                                                  order.StockShort,
		place(order.DraftLine{ProductID: pen.ID, Quantity: 1}):                                                  order.StockTaken,
		place(order.DraftLine{ProductID: ink.ID, Quantity: 1}, order.DraftLine{ProductID: ink.ID, Quantity: 1}): order.StockShort,
	}
	gone := place(order.DraftLine{ProductID: pen.ID, Quantity: 1})
	if _, err := s.OrderLifecycle().SetStatus(t.Context(), actor, gone, order.Cancelled, ""); err != nil {
		t.Fatal(err)
	}
	want[gone] = order.StockNone
	fulfilment, transactions := s.Fulfilment(), 0
	fulfilment.Transact = countTransactions(fulfilment.Transact, &transactions)
	if err := errors.Join(fulfilment.Fulfil(t.Context(), events)...); err != nil {
		t.Fatal(err)
	}
	if transactions != 1 {
		t.Errorf("%d transactions, want one for all orders", transactions)
	}
	for id, stock := range want {
		o, err := s.OrderLookup().Get(t.Context(), actor, id)
		if err != nil || o.Stock != stock {
			t.Errorf("stock %s, %v, want %s", o.Stock, err, stock)
		}
	}
	if a, b := s.stock(t, pen.ID), s.stock(t, ink.ID); a != 0 || b != 0 {
		t.Errorf("left: %d and %d, want none", a, b)
	}
	if wrong, _, err := s.db.CheckLedger(t.Context(), "", 10); err != nil || len(wrong) > 0 {
		t.Errorf("ledger: got %+v, %v, want no discrepancy", wrong, err)
	}
	s.expectMails(t, "ada@example.com", welcomed, confirmed, confirmed, confirmed, apologized, apologized, apologized, cancelled)
}

func countTransactions(transact kiosk.Transact, n *int) kiosk.Transact {
	return func(ctx context.Context, fn func(context.Context) error) error {
		*n++
		return transact(ctx, fn)
	}
}

// TestPoisonInABatch: an event about no order fails alone.
func TestPoisonInABatch(t *testing.T) {
	s := open(t)
	_, actor := s.register(t, "ada@example.com")
	pen := s.product(t, 5)
	a, b := s.place(t, actor, order.DraftLine{ProductID: pen.ID, Quantity: 1}), s.place(t, actor, order.DraftLine{ProductID: pen.ID, Quantity: 1})
	errs := s.Fulfilment().Fulfil(t.Context(), []order.Event{{OrderID: a.ID}, {OrderID: kiosk.NewID()}, {OrderID: b.ID}})
	if errs[0] != nil || !errors.Is(errs[1], order.ErrPoison) || errs[2] != nil || s.stock(t, pen.ID) != 3 {
		t.Errorf("%v, %d left, want the second alone to fail, and 3", errs, s.stock(t, pen.ID))
	}
}

// TestBacklog: while too many orders wait the shop says so, early, and only to
// those that it has not answered before.
func TestBacklog(t *testing.T) {
	t.Setenv("MAX_WAITING_ORDERS", "3")
	s := open(t)
	_, actor := s.register(t, "ada@example.com")
	pen := s.product(t, 100)
	placing, clock := s.Placing(), now()
	placing.Backlog.Now = func() time.Time { clock = clock.Add(time.Second); return clock }
	draft := order.Draft{Lines: []order.DraftLine{{ProductID: pen.ID, Quantity: 1}}, Key: "first"}
	var placed []order.Event
	for range 3 {
		o, _, err := placing.Place(t.Context(), actor, draft)
		if err != nil {
			t.Fatal(err)
		}
		placed = append(placed, order.Event{OrderID: o.ID})
		draft.Key = ""
	}
	_, _, err := placing.Place(t.Context(), actor, draft)
	var full *kiosk.Error
	if !errors.As(err, &full) || full.Kind != kiosk.KindUnavailable || full.RetryAfter <= 0 {
		t.Errorf("a fourth order: %v, want it refused for now", err)
	}
	draft.Key = "first"
	if _, replayed, err := placing.Place(t.Context(), actor, draft); err != nil || !replayed {
		t.Errorf("a key that was answered before: %t, %v, want it replayed", replayed, err)
	}
	if err := errors.Join(s.Fulfilment().Fulfil(t.Context(), placed)...); err != nil {
		t.Fatal(err)
	}
	draft.Key = ""
	if _, _, err := placing.Place(t.Context(), actor, draft); err != nil {
		t.Errorf("after the others were settled: got %v, want nil", err)
	}
}

// TestOrdersADay: an account does not grow without bound, and what was answered
// before is answered again.
func TestOrdersADay(t *testing.T) {
	t.Setenv("RATE_LIMIT_ORDERS", "3/24h")
	s := open(t)
	_, actor := s.register(t, "ada@example.com")
	_, other := s.register(t, "bob@example.com")
	pen := s.product(t, 100)
	draft := order.Draft{Lines: []order.DraftLine{{ProductID: pen.ID, Quantity: 1}}, Key: "first"}
	for range 3 {
		if _, _, err := s.Placing().Place(t.Context(), actor, draft); err != nil {
			t.Fatal(err)
		}
		draft.Key = ""
	}
	_, _, err := s.Placing().Place(t.Context(), actor, draft)
	expectKind(t, err, kiosk.KindTooMany, "a fourth order within the day")
	_, _, err = s.Placing().Place(t.Context(), kiosk.Service(), order.Draft{Lines: draft.Lines, UserID: actor.ID})
	expectKind(t, err, kiosk.KindTooMany, "a fourth order, by a service for the customer")
	if _, _, err := s.Placing().Place(t.Context(), other, draft); err != nil {
		t.Errorf("another customer: got %v, want nil", err)
	}
	draft.Key = "first"
	if _, replayed, err := s.Placing().Place(t.Context(), actor, draft); err != nil || !replayed {
		t.Errorf("the first again: %t, %v, want it replayed", replayed, err)
	}
}

// TestAKeyThatExpiredIsFree: the unique index does not hold it for ever.
func TestAKeyThatExpiredIsFree(t *testing.T) {
	s := open(t)
	_, actor := s.register(t, "ada@example.com")
	pen := s.product(t, 100)
	placing, clock := s.Placing(), now()
	placing.Now = func() time.Time { return clock }
	draft := order.Draft{Lines: []order.DraftLine{{ProductID: pen.ID, Quantity: 1}}, Key: "key"}
	first, _, err := placing.Place(t.Context(), actor, draft)
	if err != nil {
		t.Fatal(err)
	}
	clock = clock.Add(order.KeyLifetime - time.Second)
	if o, replayed, err := placing.Place(t.Context(), actor, draft); err != nil || !replayed || o.ID != first.ID {
		t.Errorf("before the key's end: got %t, %v, want the first order", replayed, err)
	}
	clock = clock.Add(2 * time.Second)
	second, replayed, err := placing.Place(t.Context(), actor, draft)
	if err != nil || replayed || second.ID == first.ID {
		t.Errorf("after its end: %t, %v, want a new order", replayed, err)
	}
	if o, replayed, err := placing.Place(t.Context(), actor, draft); err != nil || !replayed || o.ID != second.ID {
		t.Errorf("again: %t, %v, want the second order", replayed, err)
	}
}

// TestLastPiece is the classic race: many buyers, one piece, several workers,
// and every event delivered twice.
func TestLastPiece(t *testing.T) {
	s := open(t)
	_, actor := s.register(t, "ada@example.com")
	pen := s.product(t, 1)
	const buyers = 20
	orders := make([]order.Order, buyers)
	for i := range orders {
		orders[i] = s.place(t, actor, order.DraftLine{ProductID: pen.ID, Quantity: 1})
	}
	fulfilment := s.Fulfilment()
	var wg sync.WaitGroup
	for i := range 2 * buyers {
		wg.Go(func() {
			o := orders[i%buyers]
			for kiosk.IsKind(fulfilment.Fulfil(t.Context(), []order.Event{{OrderID: o.ID}})[0], kiosk.KindUnavailable) {
			}
		})
	}
	wg.Wait()
	count := map[order.Stock]int{}
	for _, o := range orders {
		o, err := s.OrderLookup().Get(t.Context(), actor, o.ID)
		if err != nil {
			t.Fatal(err)
		}
		count[o.Stock]++
	}
	if count[order.StockTaken] != 1 || count[order.StockShort] != buyers-1 || s.stock(t, pen.ID) != 0 {
		t.Errorf("got %v and %d pieces left, want one order taken and none left", count, s.stock(t, pen.ID))
	}
}

func TestSetStatus(t *testing.T) {
	s := open(t)
	_, owner := s.register(t, "ada@example.com")
	_, stranger := s.register(t, "bob@example.com")
	pen := s.product(t, 100)
	two := order.DraftLine{ProductID: pen.ID, Quantity: 2}
	placed := func(*testing.T) kiosk.ID { return s.place(t, owner, two).ID }
	taken := func(t *testing.T) kiosk.ID { return s.fulfil(t, s.place(t, owner, two)).ID }
	then := func(before func(*testing.T) kiosk.ID, actor kiosk.Actor, to order.Status) func(*testing.T) kiosk.ID {
		return func(t *testing.T) kiosk.ID {
			id := before(t)
			if _, err := s.OrderLifecycle().SetStatus(t.Context(), actor, id, to, ""); err != nil {
				t.Fatal(err)
			}
			return id
		}
	}
	completed := then(taken, admin, order.Completed)
	for _, test := range []struct {
		name   string
		before func(*testing.T) kiosk.ID
		actor  kiosk.Actor
		to     order.Status
		want   kiosk.Kind // empty: it is done
		stock  order.Stock
		moved  int
	}{
		{"the owner cancels in time", placed, owner, order.Cancelled, "", order.StockNone, 0},
		{"the owner cancels what was taken", taken, owner, order.Cancelled, "", order.StockReturned, +2},
		{"an administrator cancels", taken, admin, order.Cancelled, "", order.StockReturned, +2},
		{"an administrator completes", taken, admin, order.Completed, "", order.StockTaken, 0},
		{"a service completes", taken, kiosk.Service(), order.Completed, "", order.StockTaken, 0},
		{"a return", completed, admin, order.Cancelled, "", order.StockReturned, +2},
		{"completed too early", placed, admin, order.Completed, kiosk.KindConflict, "", 0},
		{"completed twice", completed, admin, order.Completed, kiosk.KindConflict, "", 0},
		{"cancelled twice", then(taken, owner, order.Cancelled), admin, order.Cancelled, kiosk.KindConflict, "", 0},
		{"completed after all", then(taken, owner, order.Cancelled), admin, order.Completed, kiosk.KindConflict, "", 0},
		{"back to the start", taken, admin, order.Pending, kiosk.KindConflict, "", 0},
		{"the owner completes", taken, owner, order.Completed, kiosk.KindForbidden, "", 0},
		{"the owner returns", completed, owner, order.Cancelled, kiosk.KindForbidden, "", 0},
		{"a stranger cancels", taken, stranger, order.Cancelled, kiosk.KindNotFound, "", 0},
		{"of no order", func(*testing.T) kiosk.ID { return kiosk.NewID() }, admin, order.Cancelled, kiosk.KindNotFound, "", 0},
		{"to no status", taken, admin, "SHIPPED", kiosk.KindInvalid, "", 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			id := test.before(t)
			before := s.stock(t, pen.ID)
			o, err := s.OrderLifecycle().SetStatus(t.Context(), test.actor, id, test.to, "")
			if test.want != "" {
				expectKind(t, err, test.want, "refused")
			} else if err != nil || o.Status != test.to || o.Stock != test.stock {
				t.Errorf("got %s, stock %s, %v, want %s, %s", o.Status, o.Stock, err, test.to, test.stock)
			}
			if moved := s.stock(t, pen.ID) - before; moved != test.moved {
				t.Errorf("stock moved by %d, want %d", moved, test.moved)
			}
		})
	}

	// An order that was cancelled before the worker saw it stays as it is.
	id := then(placed, owner, order.Cancelled)(t)
	before := s.stock(t, pen.ID)
	if o := s.fulfil(t, order.Order{ID: id}); o.Status != order.Cancelled || o.Stock != order.StockNone || s.stock(t, pen.ID) != before {
		t.Errorf("got %+v, want it cancelled without stock", o)
	}
}

func TestCancelAtOnce(t *testing.T) {
	s := open(t)
	_, owner := s.register(t, "ada@example.com")
	pen := s.product(t, 5)
	o := s.fulfil(t, s.place(t, owner, order.DraftLine{ProductID: pen.ID, Quantity: 2}))
	lifecycle := s.OrderLifecycle()
	var wg sync.WaitGroup
	errs := make([]error, 50)
	for i := range errs {
		wg.Go(func() { _, errs[i] = lifecycle.SetStatus(t.Context(), owner, o.ID, order.Cancelled, "changed my mind") })
	}
	wg.Wait()
	done := 0
	for _, err := range errs {
		if err == nil {
			done++
		} else {
			expectKind(t, err, kiosk.KindConflict, "a second cancellation")
		}
	}
	if done != 1 || s.stock(t, pen.ID) != 5 {
		t.Errorf("cancelled %d times, %d in stock, want once and 5", done, s.stock(t, pen.ID))
	}
	s.expectMails(t, "ada@example.com", welcomed, confirmed, cancelled)
}

func TestOrdersAreTheirOwners(t *testing.T) {
	s := open(t)
	_, ada := s.register(t, "ada@example.com")
	_, bob := s.register(t, "bob@example.com")
	pen := s.product(t, 10)
	var ids []kiosk.ID
	for range 3 {
		ids = append(ids, s.place(t, ada, order.DraftLine{ProductID: pen.ID, Quantity: 1}).ID)
	}
	s.place(t, bob, order.DraftLine{ProductID: pen.ID, Quantity: 1})
	if _, err := s.OrderLifecycle().SetStatus(t.Context(), ada, ids[0], order.Cancelled, ""); err != nil {
		t.Fatal(err)
	}
	page := kiosk.Page{Number: 1, Limit: 2}
	for _, test := range []struct {
		name  string
		actor kiosk.Actor
		query order.Query
		total int
	}{
		{"one's own", ada, order.Query{Page: page}, 3},
		{"one's own, by name", ada, order.Query{UserID: ada.ID, Page: page}, 3},
		{"of a status", ada, order.Query{Status: order.Pending, Page: page}, 2},
		{"a customer's, to the administrator", admin, order.Query{UserID: ada.ID, Status: order.Cancelled, Page: page}, 1},
		{"everybody's", admin, order.Query{Page: page}, 4},
	} {
		listed, err := s.OrderLookup().List(t.Context(), test.actor, test.query)
		orders, total := listed.Items, listed.Total
		if err != nil || total != test.total || len(orders) != min(total, 2) {
			t.Errorf("%s: %d of %d, %v, want %d", test.name, len(orders), total, err, test.total)
		}
		for i := 1; i < len(orders); i++ {
			if orders[i].CreatedAt.After(orders[i-1].CreatedAt) {
				t.Errorf("%s: got %s after %s, want the newest first", test.name, orders[i].CreatedAt, orders[i-1].CreatedAt)
			}
		}
	}
	_, err := s.OrderLookup().List(t.Context(), bob, order.Query{UserID: ada.ID, Page: page})
	expectKind(t, err, kiosk.KindForbidden, "somebody else's")
	_, err = s.OrderLookup().List(t.Context(), bob, order.Query{Status: "X", Page: page})
	expectKind(t, err, kiosk.KindInvalid, "of no status")
	_, err = s.OrderLookup().Get(t.Context(), bob, ids[0])
	_, none := s.OrderLookup().Get(t.Context(), bob, kiosk.NewID())
	expectKind(t, err, kiosk.KindNotFound, "somebody else's order")
	if none == nil || none.Error() != err.Error() {
		t.Errorf("an order that does not exist: got %v, want %v, as for another's", none, err)
	}
}
