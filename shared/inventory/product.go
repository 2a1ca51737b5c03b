// Package inventory is the shop's catalogue and its stock.
package inventory

import (
	"fmt"
	"net/url"
	"strconv"
	"time"

	kiosk "github.com/kiosk-shop/kiosk/shared"
)

// Product is a thing to sell.
type Product struct {
	ID          kiosk.ID
	Name        string
	Description string
	Category    string
	SKU         string
	ImageURL    string
	Stock       int
	Price       kiosk.Money
	Revision    int64 // counts every change, of stock too
	CreatedAt   time.Time
	UpdatedAt   time.Time
}

// ETag names the product's revision (RFC 9110, section 8.8.3).
func (p Product) ETag() string { return `"` + strconv.FormatInt(p.Revision, 10) + `"` }

// MaxStock is the most pieces of one product, below what an int32 of gRPC holds.
const MaxStock = 1_000_000_000

// Details is the input of Create and Replace.
type Details struct {
	Name        string
	Description string
	Category    string
	SKU         string
	ImageURL    string
	Stock       *int
	Price       kiosk.Decimal
}

// apply checks d and puts it into p.
func (d Details) apply(p *Product) error {
	var v kiosk.Violations
	v.Add(kiosk.CheckText("name", d.Name, 1, 200))
	v.Add(kiosk.CheckProse("description", d.Description, 0, 10_000))
	v.Add(kiosk.CheckText("category", d.Category, 1, 100))
	v.Add(kiosk.CheckText("sku", d.SKU, 0, 64))
	v.Add(checkImage(d.ImageURL))
	price, err := kiosk.ParseMoney("price", d.Price, kiosk.MaxPrice)
	v.Add(err)
	stock := 0
	if d.Stock == nil {
		v.Require(false, "stock", "is required")
	} else {
		stock = *d.Stock
		v.Require(stock >= 0 && stock <= MaxStock, "stock", fmt.Sprintf("must be from 0 to %d", MaxStock))
	}
	if err := v.Err(); err != nil {
		return err
	}
	p.Name, p.Description, p.Category, p.SKU, p.ImageURL = d.Name, d.Description, d.Category, d.SKU, d.ImageURL
	p.Stock, p.Price = stock, price
	return nil
}

func checkImage(address string) error {
	if address == "" {
		return nil
	}
	if err := kiosk.CheckText("image_url", address, 0, 2048); err != nil {
		return err
	}
	u, err := url.Parse(address)
	if err != nil || (u.Scheme != "https" && u.Scheme != "http") || u.Host == "" || u.User != nil {
		return kiosk.Invalid("image_url", "is not an http or https address")
	}
	return nil
}

// Cause says why stock moved.
type Cause string

const (
	CauseCreated  Cause = "created"  // the product was created
	CauseAdjusted Cause = "adjusted" // an administrator set it
	CauseTaken    Cause = "taken"    // an order took it
	CauseReturned Cause = "returned" // a cancelled order gave it back
	CauseDeleted  Cause = "deleted"  // the product was deleted
)

// Movement is an entry of the stock ledger. A product's stock is the sum of
// its movements.
type Movement struct {
	ID        kiosk.ID
	ProductID kiosk.ID
	Delta     int
	Cause     Cause
	Order     kiosk.ID // that took or returned; else empty
	By        kiosk.ID // the actor who changed the product; else empty
	At        time.Time
}

// Line is a quantity of a product.
type Line struct {
	ProductID kiosk.ID
	Quantity  int
}
