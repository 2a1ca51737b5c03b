package inventory

import (
	"context"
	"slices"
	"strings"
	"time"

	kiosk "github.com/kiosk-shop/kiosk/shared"
)

// Shelves is where stock is taken from and put back.
type Shelves interface {
	// Take removes quantity pieces if that many are there, in one statement,
	// and reports whether they were.
	Take(ctx context.Context, id kiosk.ID, quantity int, at time.Time) (bool, error)
	// Return puts pieces back. It reports false for a product that is gone.
	Return(ctx context.Context, id kiosk.ID, quantity int, at time.Time) (bool, error)
	Record(ctx context.Context, movements ...Movement) error
}

// Stock moves stock for orders. Its methods belong into the caller's
// transaction: on an error, or a line that was short, nothing of it may stay.
type Stock struct {
	Shelves Shelves
	Now     func() time.Time
}

// Take removes every line for an order. It reports false as soon as one is
// short: the caller then undoes the transaction.
func (s *Stock) Take(ctx context.Context, order kiosk.ID, lines []Line) (bool, error) {
	now := s.Now()
	movements := make([]Movement, 0, len(lines))
	for _, line := range Merge(lines) {
		ok, err := s.Shelves.Take(ctx, line.ProductID, line.Quantity, now)
		if err != nil || !ok {
			return false, err
		}
		movements = append(movements, Movement{ID: kiosk.NewID(), ProductID: line.ProductID, Delta: -line.Quantity, Cause: CauseTaken, Order: order, At: now})
	}
	return true, s.Shelves.Record(ctx, movements...)
}

// Return puts back every line of an order, but for products that are gone.
func (s *Stock) Return(ctx context.Context, order kiosk.ID, lines []Line) error {
	now := s.Now()
	movements := make([]Movement, 0, len(lines))
	for _, line := range Merge(lines) {
		ok, err := s.Shelves.Return(ctx, line.ProductID, line.Quantity, now)
		if err != nil {
			return err
		}
		if ok {
			movements = append(movements, Movement{ID: kiosk.NewID(), ProductID: line.ProductID, Delta: line.Quantity, Cause: CauseReturned, Order: order, At: now})
		}
	}
	return s.Shelves.Record(ctx, movements...)
}

// Merge makes one line of all that name the same product: each could be there
// alone and all together be too many. The lines come sorted by product, the
// same order everywhere, so that two orders meet in the same row first and
// conflict there instead of half-way through.
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
