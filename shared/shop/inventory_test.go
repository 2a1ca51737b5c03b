package shop

import (
	"sync"
	"testing"

	kiosk "github.com/kiosk-shop/kiosk/shared"
	"github.com/kiosk-shop/kiosk/shared/inventory"
	"github.com/kiosk-shop/kiosk/shared/order"
)

func details(name, category, price string, stock int) inventory.Details {
	return inventory.Details{Name: name, Category: category, Price: kiosk.Decimal(price), Stock: &stock}
}

func TestCatalogue(t *testing.T) {
	s := open(t)
	catalogue := s.Catalogue()
	_, customer := s.register(t, "ada@example.com")
	d := details("Pen", "paper", "1.5", 5)
	d.SKU = "PEN-1"
	p, err := catalogue.Create(t.Context(), admin, d)
	if err != nil || p.Price != 150 || p.Stock != 5 {
		t.Fatalf("Create: got %+v, %v, want the price 150 and the stock 5", p, err)
	}
	if got, err := catalogue.Get(t.Context(), p.ID); err != nil || got != p {
		t.Errorf("%+v, %v, want %+v", got, err, p)
	}
	_, err = catalogue.Create(t.Context(), admin, d)
	expectKind(t, err, kiosk.KindConflict, "the same SKU")
	if _, err := catalogue.Create(t.Context(), admin, details("No SKU", "paper", "1", 1)); err != nil {
		t.Error(err)
	}
	if _, err := catalogue.Create(t.Context(), admin, details("No SKU either", "paper", "1", 1)); err != nil {
		t.Error(err)
	}
	_, err = catalogue.Create(t.Context(), customer, details("Pen", "paper", "1", 1))
	expectKind(t, err, kiosk.KindForbidden, "a customer creates")
	_, err = catalogue.Create(t.Context(), admin, inventory.Details{})
	expectKind(t, err, kiosk.KindInvalid, "nothing")

	same := func(p inventory.Product) inventory.Match {
		return func(now inventory.Product) bool { return now.ETag() == p.ETag() }
	}
	changed, err := catalogue.Replace(t.Context(), admin, p.ID, same(p), details("Quill", "paper", "2", 7))
	if err != nil || changed.Name != "Quill" || changed.Stock != 7 || changed.SKU != "" || changed.ETag() == p.ETag() || changed.CreatedAt != p.CreatedAt {
		t.Errorf("Replace: got %+v, %v, want a quill, 7 pieces, another ETag", changed, err)
	}
	if got, err := catalogue.Get(t.Context(), p.ID); err != nil || got != changed {
		t.Errorf("Get: got %+v, %v, want %+v", got, err, changed)
	}
	_, err = catalogue.Replace(t.Context(), admin, p.ID, same(p), details("Feather", "paper", "2", 7))
	expectKind(t, err, kiosk.KindStale, "what one saw is old")
	expectKind(t, catalogue.Delete(t.Context(), admin, p.ID, same(p)), kiosk.KindStale, "what one saw is old")
	_, err = catalogue.Replace(t.Context(), customer, p.ID, nil, details("Feather", "paper", "2", 7))
	expectKind(t, err, kiosk.KindForbidden, "a customer changes")
	expectKind(t, catalogue.Delete(t.Context(), customer, p.ID, nil), kiosk.KindForbidden, "a customer deletes")
	_, err = catalogue.Replace(t.Context(), admin, kiosk.NewID(), nil, details("Feather", "paper", "2", 7))
	expectKind(t, err, kiosk.KindNotFound, "no product")

	if err := catalogue.Delete(t.Context(), admin, p.ID, same(changed)); err != nil {
		t.Fatal(err)
	}
	_, err = catalogue.Get(t.Context(), p.ID)
	expectKind(t, err, kiosk.KindNotFound, "a product that has gone")
	expectKind(t, catalogue.Delete(t.Context(), admin, p.ID, nil), kiosk.KindNotFound, "deleted twice")
}

func TestListProducts(t *testing.T) {
	s := open(t)
	for _, p := range []inventory.Details{
		details("Pen", "paper", "3", 1), details("Ink (blue)", "paper", "2", 1), details("apple", "fruit", "1", 1), details("Pear", "fruit", "4", 1),
	} {
		p.Description = "A fine " + p.Name
		if _, err := s.Catalogue().Create(t.Context(), admin, p); err != nil {
			t.Fatal(err)
		}
	}
	page := kiosk.Page{Number: 1, Limit: 10}
	for _, test := range []struct {
		name  string
		query inventory.Query
		want  []string
		total int
	}{
		{"by name", inventory.Query{Sort: inventory.SortName, Page: page}, []string{"Ink (blue)", "Pear", "Pen", "apple"}, 4},
		{"by price, dearest first", inventory.Query{Sort: inventory.SortPrice, Descending: true, Page: page}, []string{"Pear", "Pen", "Ink (blue)", "apple"}, 4},
		{"by age", inventory.Query{Sort: inventory.SortCreatedAt, Page: page}, []string{"Pen", "Ink (blue)", "apple", "Pear"}, 4},
		{"of a category", inventory.Query{Category: "fruit", Sort: inventory.SortPrice, Page: page}, []string{"apple", "Pear"}, 2},
		{"by text, letters' case aside", inventory.Query{Text: "FINE PE", Sort: inventory.SortPrice, Page: page}, []string{"Pen", "Pear"}, 2},
		{"by text that would be a pattern", inventory.Query{Text: "(blue)", Sort: inventory.SortName, Page: page}, []string{"Ink (blue)"}, 1},
		{"by text that matches nothing", inventory.Query{Text: ".*", Sort: inventory.SortName, Page: page}, nil, 0},
		{"the second page", inventory.Query{Sort: inventory.SortPrice, Page: kiosk.Page{Number: 2, Limit: 3}}, []string{"Pear"}, 4},
		{"beyond the last page", inventory.Query{Sort: inventory.SortPrice, Page: kiosk.Page{Number: 9, Limit: 3}}, nil, 4},
	} {
		page, err := s.Catalogue().List(t.Context(), test.query)
		if err != nil {
			t.Errorf("%s: %v", test.name, err)
			continue
		}
		var got []string
		for _, p := range page.Items {
			got = append(got, p.Name)
		}
		if page.Total != test.total || len(got) != len(test.want) {
			t.Errorf("%s: %q of %d, want %q of %d", test.name, got, page.Total, test.want, test.total)
			continue
		}
		for i := range got {
			if got[i] != test.want[i] {
				t.Errorf("%s: %q, want %q", test.name, got, test.want)
				break
			}
		}
	}
	for name, query := range map[string]inventory.Query{
		"no sort":      {Page: page},
		"another sort": {Sort: "stock", Page: page},
		"no page":      {Sort: inventory.SortName},
		"long text":    {Sort: inventory.SortName, Page: page, Text: string(make([]byte, 101))},
	} {
		_, err := s.Catalogue().List(t.Context(), query)
		expectKind(t, err, kiosk.KindInvalid, name)
	}
}

// TestListsFollowChanges: a list that was counted or gathered before shows what
// has changed since, and an order's stock is no change of a list.
func TestListsFollowChanges(t *testing.T) {
	s := open(t)
	catalogue := s.Catalogue()
	expect := func(what string, all, paper, feather int) {
		t.Helper()
		for _, test := range []struct {
			query inventory.Query
			want  int
		}{{inventory.Query{}, all}, {inventory.Query{Category: "paper"}, paper}, {inventory.Query{Text: "feather"}, feather}} {
			test.query.Sort, test.query.Page = inventory.SortPrice, kiosk.Page{Number: 1, Limit: 1}
			got, err := catalogue.List(t.Context(), test.query)
			if err != nil || got.Total != test.want || len(got.Items) != min(test.want, 1) || (got.Next != "") != (test.want > 1) {
				t.Errorf("%s, %+v: %+v, %v, want %d", what, test.query, got, err, test.want)
			}
		}
	}
	expect("at first", 0, 0, 0)
	var last inventory.Product
	for n := range 3 {
		var err error
		if last, err = catalogue.Create(t.Context(), admin, details("Pen", "paper", "1", 5)); err != nil {
			t.Fatal(err)
		}
		expect("one more", n+1, n+1, 0)
	}
	for _, change := range []struct {
		what                string
		details             inventory.Details
		all, paper, feather int
	}{
		{"another name", details("Feather", "paper", "1", 5), 3, 3, 1},
		{"another category", details("Feather", "birds", "1", 5), 3, 2, 1},
		{"another stock", details("Feather", "birds", "1", 6), 3, 2, 1},
		{"another description", inventory.Details{Name: "Quill", Description: "of a feather", Category: "birds", Stock: new(6), Price: "1"}, 3, 2, 1},
		{"another SKU", inventory.Details{Name: "Quill", SKU: "FEATHER-1", Category: "birds", Stock: new(6), Price: "1"}, 3, 2, 1},
		{"none of it", details("Quill", "paper", "1", 5), 3, 3, 0},
	} {
		if _, err := catalogue.Replace(t.Context(), admin, last.ID, nil, change.details); err != nil {
			t.Fatal(err)
		}
		expect(change.what, change.all, change.paper, change.feather)
	}
	if _, err := catalogue.Replace(t.Context(), admin, last.ID, nil, details("Quill", "paper", "0.5", 5)); err != nil {
		t.Fatal(err)
	}
	query := inventory.Query{Text: "p", Sort: inventory.SortPrice, Page: kiosk.Page{Number: 1, Limit: 1}}
	if got, err := catalogue.List(t.Context(), query); err != nil || len(got.Items) != 1 || got.Items[0].ID != last.ID {
		t.Errorf("the cheapest: got %+v, %v, want %s", got, err, last.ID)
	}
	expect("another price", 3, 3, 0)
	if err := catalogue.Delete(t.Context(), admin, last.ID, nil); err != nil {
		t.Fatal(err)
	}
	expect("one deleted", 2, 2, 0)
}

// TestShopkeeperAndCustomersAtOnce corrects the stock, seen by ETag, while
// orders take it: neither loses the other's change.
func TestShopkeeperAndCustomersAtOnce(t *testing.T) {
	s := open(t)
	_, ada := s.register(t, "ada@example.com")
	pen := s.product(t, 100)
	const buyers, restocks = 10, 5
	orders := make([]order.Order, buyers)
	for i := range orders {
		orders[i] = s.place(t, ada, order.DraftLine{ProductID: pen.ID, Quantity: 1})
	}
	fulfilment, catalogue := s.Fulfilment(), s.Catalogue()
	var wg sync.WaitGroup
	for _, o := range orders {
		wg.Go(func() {
			if err := fulfilment.Fulfil(t.Context(), []order.Event{{OrderID: o.ID}})[0]; err != nil {
				t.Error(err)
			}
		})
	}
	wg.Go(func() {
		for added := 0; added < restocks; {
			p, err := s.db.Products().ByID(t.Context(), pen.ID)
			if err != nil {
				t.Error(err)
				return
			}
			_, err = catalogue.Replace(t.Context(), admin, pen.ID, func(now inventory.Product) bool { return now.ETag() == p.ETag() }, details("Pen", "paper", "1.50", p.Stock+10))
			switch {
			case err == nil:
				added++
			case !kiosk.IsKind(err, kiosk.KindStale):
				t.Error(err)
				return
			}
		}
	})
	wg.Wait()
	if got, want := s.stock(t, pen.ID), 100-buyers+10*restocks; got != want {
		t.Errorf("%d in stock, want %d", got, want)
	}
}

func TestLedger(t *testing.T) {
	s := open(t)
	_, ada := s.register(t, "ada@example.com")
	var products []inventory.Product
	for range 3 {
		products = append(products, s.product(t, 5))
	}
	o := s.fulfil(t, s.place(t, ada, order.DraftLine{ProductID: products[0].ID, Quantity: 2}, order.DraftLine{ProductID: products[1].ID, Quantity: 1}))
	if _, err := s.Catalogue().Replace(t.Context(), admin, products[0].ID, nil, details("Pen", "paper", "1.50", 50)); err != nil {
		t.Fatal(err)
	}
	if _, err := s.OrderLifecycle().SetStatus(t.Context(), ada, o.ID, order.Cancelled, ""); err != nil {
		t.Fatal(err)
	}
	check := func() (wrong []inventory.Discrepancy) {
		t.Helper()
		for after := kiosk.ID(""); ; {
			some, last, err := s.db.CheckLedger(t.Context(), after, 2)
			if err != nil {
				t.Fatal(err)
			}
			wrong = append(wrong, some...)
			if last == "" {
				return wrong
			}
			after = last
		}
	}
	if wrong := check(); len(wrong) > 0 {
		t.Errorf("ledger: got %+v, want no discrepancy", wrong)
	}
	// The check bites: a movement that nobody made.
	if err := s.db.Products().Record(t.Context(), inventory.Movement{ID: kiosk.NewID(), ProductID: products[2].ID, Delta: 1, Cause: inventory.CauseAdjusted, At: now()}); err != nil {
		t.Fatal(err)
	}
	if wrong := check(); len(wrong) != 1 || wrong[0] != (inventory.Discrepancy{ProductID: products[2].ID, Stock: 5, Ledger: 6}) {
		t.Errorf("ledger: got %+v, want the third product's 5 instead of 6", wrong)
	}
}
