package functions_test

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	handler "github.com/openfaas/templates-sdk/go-http"

	"github.com/kiosk-shop/kiosk/faasd/testkit/testservers"
	authenticate "github.com/kiosk-shop/kiosk/functions/authenticate"
	createorder "github.com/kiosk-shop/kiosk/functions/create-order"
	orders "github.com/kiosk-shop/kiosk/functions/orders"
	products "github.com/kiosk-shop/kiosk/functions/products"
	register "github.com/kiosk-shop/kiosk/functions/register"
	sendemail "github.com/kiosk-shop/kiosk/functions/send-email"
	users "github.com/kiosk-shop/kiosk/functions/users"
	"github.com/kiosk-shop/kiosk/shared/rest"
	"github.com/kiosk-shop/kiosk/shared/user"
)

func TestMain(m *testing.M) { testservers.Main(m) }

// fuzz sends bodies to one route of a function, as the shop's own service,
// whom nothing is forbidden. Whatever comes, the function answers by the
// contract: never with a fault of its own, and every refusal is a problem.
func fuzz(f *testing.F, newFunction func(context.Context) (handler.FunctionHandler, error), method, path string, seeds ...string) {
	database := testservers.Mongo(f)
	secret := strings.Repeat("k", user.GoodSecret)
	for name, value := range map[string]string{
		"MONGO_URI": database.URI, "MONGO_DB_NAME": database.Name, "JWT_SECRET": secret, "RATE_LIMIT": "off",
		"REDIS_ADDR": testservers.Redis(f), "NATS_URL": testservers.NATS(f),
		"GATEWAY_URL": "http://127.0.0.1:1", "SMTP_HOST": "127.0.0.1", "SMTP_PORT": "1", // nobody is there: what leaves, waits
	} {
		f.Setenv(name, value)
	}
	function, err := newFunction(f.Context())
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() {
		if err := function.(io.Closer).Close(); err != nil {
			f.Error(err)
		}
	})
	ready := function.(interface{ Ready(context.Context) error })
	testservers.Eventually(f, "the function to be ready", func() error { return ready.Ready(f.Context()) })
	for _, seed := range append(seeds, ``, ` `, `{}`, `null`, `[]`, `{"a":1}`, `{"email":{"$ne":null}}`, "{\"name\":\"\xff\"}", `{"price":1e999}`, strings.Repeat("[", 10_000)) {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		token, err := user.ServiceToken([]byte(secret), time.Now())
		if err != nil {
			t.Fatal(err)
		}
		req := handler.Request{Method: method, Body: body, Header: http.Header{rest.PathHeader: {path}, "Authorization": {"Bearer " + token}}}
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		req.WithContext(ctx)
		resp, err := function.Handle(req)
		// 503 is send-email's word on a mail server that is not there.
		if err != nil || resp.StatusCode >= 500 && !(resp.StatusCode == 503 && path == "/" && strings.Contains(string(body), "to_email")) {
			t.Fatalf("got %d %s, %v, want an answer below 500", resp.StatusCode, resp.Body, err)
		}
		if len(resp.Body) > 0 && !json.Valid(resp.Body) {
			t.Fatalf("body: got %s, want JSON", resp.Body)
		}
		if resp.StatusCode >= 400 && resp.Header.Get("Content-Type") != "application/problem+json" {
			t.Fatalf("%d: got %v %s, want a problem", resp.StatusCode, resp.Header, resp.Body)
		}
	})
}

const anID = "0123456789abcdef01234567"

func FuzzRegister(f *testing.F) {
	fuzz(f, register.New, "POST", "/", `{"username":"ada","email":"ada@example.com","password":"correct horse","name":"Ada"}`)
}

func FuzzAuthenticate(f *testing.F) {
	fuzz(f, authenticate.New, "POST", "/", `{"username":"ada","password":"correct horse"}`, `{"email":"ada@example.com","password":"x"}`)
}

func FuzzRefresh(f *testing.F) {
	fuzz(f, authenticate.New, "POST", "/refresh", `{"refresh_token":"`+anID+`.1.AAAA"}`)
}

func FuzzUsers(f *testing.F) {
	fuzz(f, users.New, "PATCH", "/"+anID, `{"name":"Ada","email":"ada@example.com","password":"correct horse","current_password":"x"}`)
}

func FuzzProducts(f *testing.F) {
	fuzz(f, products.New, "POST", "/", `{"name":"Pen","description":"d","category":"paper","stock":5,"price":1.50,"sku":"P-1","image_url":"https://example.com/p.png"}`)
}

func FuzzReplaceProduct(f *testing.F) {
	fuzz(f, products.New, "PUT", "/"+anID, `{"name":"Pen","category":"paper","stock":5,"price":1.50}`)
}

func FuzzCreateOrder(f *testing.F) {
	fuzz(f, createorder.New, "POST", "/", `{"items":[{"product_id":"`+anID+`","quantity":2}],"user_id":"`+anID+`","total":3.00}`)
}

func FuzzOrderStatus(f *testing.F) {
	fuzz(f, orders.New, "PUT", "/"+anID+"/status", `{"status":"CANCELLED","reason":"x"}`)
}

func FuzzSendEmail(f *testing.F) {
	fuzz(f, sendemail.New, "POST", "/", `{"to_email":"ada@example.com","subject":"Hi","html_body":"<p>Hi</p>","text_body":"Hi"}`)
}
