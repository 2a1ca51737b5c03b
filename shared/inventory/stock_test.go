package inventory

import (
	"slices"
	"testing"

	"pgregory.net/rapid"

	kiosk "github.com/kiosk-shop/kiosk/shared"
)

func TestMerge(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		ids := rapid.SliceOfN(rapid.StringMatching(`[0-9a-f]{24}`), 1, 5).Draw(t, "products")
		lines := rapid.SliceOf(rapid.Custom(func(t *rapid.T) Line {
			return Line{kiosk.ID(rapid.SampledFrom(ids).Draw(t, "product")), rapid.IntRange(1, 100).Draw(t, "quantity")}
		})).Draw(t, "lines")
		want := map[kiosk.ID]int{}
		for _, line := range lines {
			want[line.ProductID] += line.Quantity
		}
		merged := Merge(lines)
		if len(merged) != len(want) {
			t.Fatalf("got %d lines, want %d", len(merged), len(want))
		}
		for _, line := range merged {
			if line.Quantity != want[line.ProductID] {
				t.Fatalf("got %v, want the quantity %d", line, want[line.ProductID])
			}
		}
		if !slices.IsSortedFunc(merged, func(a, b Line) int { return slices.Compare([]byte(a.ProductID), []byte(b.ProductID)) }) {
			t.Fatalf("got %v, want it sorted by product", merged)
		}
	})
}

func TestDetails(t *testing.T) {
	stock := func(n int) *int { return &n }
	good := Details{Name: "Pen", Category: "paper", Stock: stock(5), Price: "1.50"}
	var p Product
	if err := good.apply(&p); err != nil || p.Price != 150 || p.Stock != 5 {
		t.Fatalf("got %+v, %v, want the price 150 and the stock 5", p, err)
	}
	for field, spoil := range map[string]func(*Details){
		"name":        func(d *Details) { d.Name = "" },
		"category":    func(d *Details) { d.Category = "" },
		"description": func(d *Details) { d.Description = "\x00" },
		"sku":         func(d *Details) { d.SKU = "a\nb" },
		"image_url":   func(d *Details) { d.ImageURL = "javascript:alert(1)" },
		"stock":       func(d *Details) { d.Stock = stock(-1) },
		"price":       func(d *Details) { d.Price = "1.505" },
	} {
		d := good
		spoil(&d)
		before := p
		err := d.apply(&p)
		if !kiosk.IsKind(err, kiosk.KindInvalid) || p != before {
			t.Errorf("a bad %s: got %v, want it invalid and the product unchanged", field, err)
			continue
		}
		var v kiosk.Violations
		v.Add(err)
		if len(v) != 1 || v[0].Field != field {
			t.Errorf("a bad %s: got %+v, want one violation of that field", field, v)
		}
	}
	var v kiosk.Violations
	v.Add(Details{}.apply(&p))
	if len(v) != 4 { // name, category, price, stock: all at once
		t.Errorf("an empty product: got %+v, want 4 violations", v)
	}
}
