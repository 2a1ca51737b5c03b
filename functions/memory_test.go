package functions_test

import (
	"fmt"
	"net/http"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	handler "github.com/openfaas/templates-sdk/go-http"

	"github.com/kiosk-shop/kiosk/faasd/testkit/testservers"
	orders "github.com/kiosk-shop/kiosk/functions/orders"
	products "github.com/kiosk-shop/kiosk/functions/products"
	kiosk "github.com/kiosk-shop/kiosk/shared"
	"github.com/kiosk-shop/kiosk/shared/inventory"
	"github.com/kiosk-shop/kiosk/shared/mongodb"
	"github.com/kiosk-shop/kiosk/shared/order"
	"github.com/kiosk-shop/kiosk/shared/rest"
	"github.com/kiosk-shop/kiosk/shared/user"
)

// costs is how many times its size an answer allocates while it is made, in
// all: measured 7.9 for lists of orders, 5.3 for lists of products. It is more
// than is ever held at once.
const costs = 8

// TestAnswersFitTheMemory makes the largest answers of the functions that read,
// multiplies what they cost with how many may be made at once, and compares it
// with the function's memory from stack.yml.
func TestAnswersFitTheMemory(t *testing.T) {
	const secret = "a secret of the tests that is long enough"
	database := testservers.Mongo(t)
	for name, value := range map[string]string{
		"MONGO_URI": database.URI, "MONGO_DB_NAME": database.Name, "REDIS_ADDR": testservers.Redis(t), "NATS_URL": testservers.NATS(t), "JWT_SECRET": secret,
	} {
		t.Setenv(name, value)
	}
	db, err := mongodb.Open(database.URI, database.Name)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	var product inventory.Product
	var placed order.Order
	for range kiosk.MaxLimit {
		now := time.Now().UTC().Truncate(time.Millisecond)
		product = inventory.Product{
			ID: kiosk.NewID(), Name: strings.Repeat("ж", 200), Description: strings.Repeat("ж", 10_000), Category: "paper",
			ImageURL: "https://example.com/" + strings.Repeat("x", 2000), Price: 100, Stock: 1, Revision: 1, CreatedAt: now, UpdatedAt: now,
		}
		placed = order.Order{
			ID: kiosk.NewID(), UserID: kiosk.NewID(), Total: 100, Currency: "USD", Status: order.Pending, Stock: order.StockPending,
			History: []order.Change{{At: now}, {At: now}, {At: now}, {At: now}}, Revision: 1, CreatedAt: now, UpdatedAt: now,
		}
		for range order.MaxLines {
			placed.Lines = append(placed.Lines, order.Line{ProductID: kiosk.NewID(), Name: product.Name, Quantity: 1, UnitPrice: 100})
		}
		if err := db.Products().Insert(t.Context(), product); err != nil {
			t.Fatal(err)
		}
		if err := db.Orders().Insert(t.Context(), placed); err != nil {
			t.Fatal(err)
		}
	}
	token, err := user.ServiceToken([]byte(secret), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range []struct {
		name  string
		new   func() (handler.FunctionHandler, error)
		lists int // at once
		one   kiosk.ID
	}{
		{"orders", func() (handler.FunctionHandler, error) { return orders.New(t.Context()) }, orders.ListsAtOnce, placed.ID},
		{"products", func() (handler.FunctionHandler, error) { return products.New(t.Context()) }, products.ListsAtOnce, product.ID},
	} {
		t.Run(f.name, func(t *testing.T) {
			h, err := f.new()
			if err != nil {
				t.Fatal(err)
			}
			defer h.(*rest.Function).Close()
			size := func(path, query string) int {
				t.Helper()
				req := handler.Request{Method: http.MethodGet, Header: http.Header{"Authorization": {"Bearer " + token}, rest.PathHeader: {path}}, QueryString: query}
				req.WithContext(t.Context())
				response, err := h.Handle(req)
				if err != nil || response.StatusCode != http.StatusOK {
					t.Fatalf("GET %s?%s: got %d %s, %v, want 200", path, query, response.StatusCode, response.Body, err)
				}
				return len(response.Body)
			}
			list, one := size("/", "limit="+strconv.Itoa(kiosk.MaxLimit)), size("/"+string(f.one), "")
			inflight, memory := setting(t, f.name, "max_inflight"), setting(t, f.name, "GOMEMLIMIT")<<20
			most := costs * (f.lists*list + inflight*one)
			report := fmt.Sprintf("%d lists of %d KiB and %d single ones of %d KiB cost %d MiB of %d MiB", f.lists, list>>10, inflight, one>>10, most>>20, memory>>20)
			t.Log(report)
			if most > memory {
				t.Errorf("answers in flight: got %s, want them within the function's memory", report)
			}
		})
	}
}

// setting reads a number from a function's environment in stack.yml:
// its own, or else the one that all share.
func setting(t *testing.T, function, name string) int {
	t.Helper()
	stack, err := os.ReadFile("../stack.yml")
	if err != nil {
		t.Fatal(err)
	}
	_, own, _ := strings.Cut(string(stack), "\n  "+function+":\n")
	own, _, _ = strings.Cut(own, "\n\n")
	number := regexp.MustCompile(name + `: (\d+)`)
	found := number.FindStringSubmatch(own)
	if found == nil {
		found = number.FindStringSubmatch(string(stack))
	}
	n, err := strconv.Atoi(found[1])
	if err != nil {
		t.Fatal(err)
	}
	return n
}
