package order

import (
	"testing"
	"time"

	"pgregory.net/rapid"

	kiosk "github.com/kiosk-shop/kiosk/shared"
)

// TestLife walks random ways through an order's life and holds them against
// the table of the contract.
func TestLife(t *testing.T) {
	type state struct {
		Status
		Stock
	}
	allowed := map[state][]state{
		{Pending, StockPending}: {{Pending, StockTaken}, {Cancelled, StockShort}, {Cancelled, StockNone}},
		{Pending, StockTaken}:   {{Completed, StockTaken}, {Cancelled, StockReturned}},
		{Completed, StockTaken}: {{Cancelled, StockReturned}},
	}
	rapid.Check(t, func(t *rapid.T) {
		now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
		o := Order{ID: kiosk.NewID()}
		o.move(Pending, StockPending, kiosk.NewID(), now)
		shelf := 10 // what is left of the one piece this order wants
		for range rapid.IntRange(1, 8).Draw(t, "steps") {
			now = now.Add(time.Second)
			before, history := state{o.Status, o.Stock}, len(o.History)
			var err error
			switch rapid.SampledFrom([]string{"take", "short", "complete", "cancel"}).Draw(t, "step") {
			case "take": // the worker takes only what waits: see Fulfilment.once
				if o.Stock == StockPending {
					o.take(now)
					shelf--
				}
			case "short":
				if o.Stock == StockPending {
					o.short(now)
				}
			case "complete":
				err = o.complete(kiosk.ServiceID, "", now)
			case "cancel":
				var restock bool
				if restock, err = o.cancel(kiosk.ServiceID, "", now); restock {
					shelf++
				}
			}
			after := state{o.Status, o.Stock}
			if err != nil && (!kiosk.IsKind(err, kiosk.KindConflict) || after != before || len(o.History) != history) {
				t.Fatalf("refused with %v: got %v, want it to stay %v", err, after, before)
			}
			legal := after == before
			for _, next := range allowed[before] {
				legal = legal || after == next
			}
			if !legal {
				t.Fatalf("got %v after %v, want one of %v", after, before, allowed[before])
			}
			if after != before && (len(o.History) != history+1 || o.History[history] != Change{now, o.Status, o.Stock, kiosk.ServiceID}) {
				t.Fatalf("history: got %+v, want the change to %v at its end", o.History, after)
			}
			want := 10
			if o.Stock == StockTaken {
				want = 9
			}
			if shelf != want {
				t.Fatalf("stock %s: got %d left, want %d", o.Stock, shelf, want)
			}
		}
	})
}

func TestFingerprintTellsDraftsApart(t *testing.T) {
	a, b := kiosk.NewID(), kiosk.NewID()
	base := Draft{UserID: a, Total: "3.00", Key: "k", Lines: []DraftLine{{a, 1}, {b, 2}}}
	same := base
	same.Key = "another"
	if base.fingerprint() != same.fingerprint() {
		t.Error("another key: got another fingerprint, want the same")
	}
	for name, other := range map[string]Draft{
		"user":     {UserID: b, Total: "3.00", Lines: base.Lines},
		"total":    {UserID: a, Lines: base.Lines},
		"quantity": {UserID: a, Total: "3.00", Lines: []DraftLine{{a, 1}, {b, 3}}},
		"product":  {UserID: a, Total: "3.00", Lines: []DraftLine{{a, 1}, {a, 2}}},
		"fewer":    {UserID: a, Total: "3.00", Lines: base.Lines[:1]},
	} {
		if base.fingerprint() == other.fingerprint() {
			t.Errorf("another %s: got the same fingerprint, want another", name)
		}
	}
}
