package inventory

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"time"

	kiosk "github.com/kiosk-shop/kiosk/shared"
)

// StockStore is where stock is kept.
type StockStore interface {
	// Stocks returns how many pieces there are of the products that exist.
	Stocks(ctx context.Context, ids []kiosk.ID) (map[kiosk.ID]int, error)
	// Move changes the stock of each product, in one statement with the
	// condition that no stock gets below zero. It reports false where one of
	// them was not changed, being gone or too short.
	Move(ctx context.Context, moves []Move, at time.Time) (bool, error)
	Record(ctx context.Context, movements ...Movement) error
}

// Move is a change of a product's stock.
type Move struct {
	ProductID kiosk.ID
	Delta     int
}

// Demand is what an order asks for.
type Demand struct {
	Order kiosk.ID
	Lines []Line // as [Merge] returns them: each product once
}

// Stock changes the stock for orders. Its methods run in the caller's transaction,
// which an error undoes.
type Stock struct {
	Store StockStore
	Now   func() time.Time
}

// errMoved undoes a transaction whose stock was changed since it was read, which a
// snapshot rules out.
var errMoved = kiosk.Unavailable(errors.New("the stock was changed by another request at the same time: try again"))

// Take takes the stock of orders, one after the other: of each every line, or,
// where one is short, none. It reports for each order whether its stock was
// taken. However many orders ask for a product, it is changed once.
func (s *Stock) Take(ctx context.Context, demands []Demand) (taken []bool, err error) {
	left, err := s.Store.Stocks(ctx, products(demands))
	if err != nil {
		return nil, err
	}
	taken = make([]bool, len(demands))
	deltas := map[kiosk.ID]int{}
	var movements []Movement
	now := s.Now()
	for i, d := range demands {
		if slices.ContainsFunc(d.Lines, func(l Line) bool { return left[l.ProductID] < l.Quantity }) {
			continue
		}
		taken[i] = true
		for _, l := range d.Lines {
			left[l.ProductID] -= l.Quantity
			deltas[l.ProductID] -= l.Quantity
			movements = append(movements, Movement{ID: kiosk.NewID(), ProductID: l.ProductID, Delta: -l.Quantity, Cause: CauseTaken, Order: d.Order, At: now})
		}
	}
	return taken, s.move(ctx, deltas, movements, now)
}

// Return puts back every line of an order, except for products that were deleted.
// lines name each product once, as those of an order do.
func (s *Stock) Return(ctx context.Context, order kiosk.ID, lines []Line) error {
	there, err := s.Store.Stocks(ctx, products([]Demand{{order, lines}}))
	if err != nil {
		return err
	}
	deltas := map[kiosk.ID]int{}
	var movements []Movement
	now := s.Now()
	for _, l := range lines {
		if _, ok := there[l.ProductID]; ok {
			deltas[l.ProductID] = l.Quantity
			movements = append(movements, Movement{ID: kiosk.NewID(), ProductID: l.ProductID, Delta: l.Quantity, Cause: CauseReturned, Order: order, At: now})
		}
	}
	return s.move(ctx, deltas, movements, now)
}

// move changes the products in the order of their identifiers, the same order
// everywhere: two transactions then meet in the same product first, and
// conflict there instead of half-way through.
func (s *Stock) move(ctx context.Context, deltas map[kiosk.ID]int, movements []Movement, now time.Time) error {
	if len(movements) == 0 {
		return nil
	}
	moves := make([]Move, 0, len(deltas))
	for _, id := range slices.Sorted(maps.Keys(deltas)) {
		moves = append(moves, Move{id, deltas[id]})
	}
	moved, err := s.Store.Move(ctx, moves, now)
	if err != nil {
		return err
	}
	if !moved {
		return errMoved
	}
	return s.Store.Record(ctx, movements...)
}

// products returns the products that are asked for, each once.
func products(demands []Demand) []kiosk.ID {
	set := map[kiosk.ID]bool{}
	for _, d := range demands {
		for _, l := range d.Lines {
			set[l.ProductID] = true
		}
	}
	return slices.Sorted(maps.Keys(set))
}

// Merge returns lines that name each product once, sorted by product: the quantity
// of a product is the sum of its lines. An order's lines are merged when it is
// placed, and nowhere else.
func Merge(lines []Line) []Line {
	total := map[kiosk.ID]int{}
	for _, line := range lines {
		total[line.ProductID] += line.Quantity
	}
	merged := make([]Line, 0, len(total))
	for id, quantity := range total {
		merged = append(merged, Line{id, quantity})
	}
	slices.SortFunc(merged, func(a, b Line) int { return strings.Compare(string(a.ProductID), string(b.ProductID)) })
	return merged
}

// Discrepancy is a product whose stock is not the sum of its ledger.
type Discrepancy struct {
	ProductID kiosk.ID
	Stock     int
	Ledger    int
}
