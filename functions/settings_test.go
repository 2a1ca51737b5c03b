package functions_test

import (
	"context"
	"strings"
	"testing"

	handler "github.com/openfaas/templates-sdk/go-http"

	authenticate "github.com/kiosk-shop/kiosk/functions/authenticate"
	createorder "github.com/kiosk-shop/kiosk/functions/create-order"
	inventoryupdater "github.com/kiosk-shop/kiosk/functions/inventory-updater"
	orders "github.com/kiosk-shop/kiosk/functions/orders"
	outboxrelay "github.com/kiosk-shop/kiosk/functions/outbox-relay"
	products "github.com/kiosk-shop/kiosk/functions/products"
	register "github.com/kiosk-shop/kiosk/functions/register"
	sendemail "github.com/kiosk-shop/kiosk/functions/send-email"
	users "github.com/kiosk-shop/kiosk/functions/users"
)

// TestMalformedSettings starts every function that reads it with a setting that
// cannot be understood: the function ends with an error that names the setting,
// once, and does not quote the password in it.
func TestMalformedSettings(t *testing.T) {
	functions := map[string]func(context.Context) (handler.FunctionHandler, error){
		"register": register.New, "authenticate": authenticate.New, "users": users.New, "products": products.New,
		"create-order": createorder.New, "orders": orders.New, "send-email": sendemail.New,
		"inventory-updater": inventoryupdater.New, "outbox-relay": outboxrelay.New,
	}
	all := make([]string, 0, len(functions))
	for name := range functions {
		all = append(all, name)
	}
	events := []string{"register", "authenticate", "users", "products", "create-order", "orders", "inventory-updater", "outbox-relay"}
	for _, test := range []struct {
		setting, value string
		readers        []string
	}{
		{"MONGO_URI", "nonsense", all},
		{"MONGO_URI", "mongodb://", all},
		{"MONGO_URI", "mongodb://kiosk:hunter2@mongo:port/", all},
		{"MONGO_URI", "mongodb://kiosk:hunter2/2@mongo/", all},
		{"MONGO_URI", "mongodb://kiosk:hunter2@mongo/?replicaSet=a&directConnection=perhaps", all},
		{"JWT_SECRET", "", all},
		{"NATS_URL", "nats://kiosk:hunter2@nats:port", events},
		{"REDIS_DB", "first", all},
		{"SMTP_PORT", "hunter2", []string{"send-email"}},
		{"MAIL_FROM", "nobody", []string{"send-email"}},
		{"MAIL_TEMPLATES", "/nowhere", []string{"send-email"}},
		{"RATE_LIMIT", "perhaps", []string{"register", "authenticate", "users", "products", "orders", "create-order"}},
		{"RATE_LIMIT_LINKS", "fast", []string{"authenticate", "users"}},
		{"RATE_LIMIT_LINK_LETTERS", "fast", []string{"authenticate", "users"}},
		{"REQUIRE_VERIFIED_EMAIL", "perhaps", []string{"create-order"}},
		{"RATE_LIMIT_WRITES", "fast", []string{"users", "products", "orders", "create-order"}},
		{"NATS_REPLICAS", "three", events},
	} {
		for _, name := range test.readers {
			t.Run(test.setting+"="+test.value+"/"+name, func(t *testing.T) {
				for setting, value := range map[string]string{
					"MONGO_URI": "mongodb://127.0.0.1:1/?replicaSet=rs0", "REDIS_ADDR": "127.0.0.1:1", "NATS_URL": "nats://127.0.0.1:1",
					"JWT_SECRET": strings.Repeat("k", 32), "SMTP_HOST": "127.0.0.1", "GATEWAY_URL": "http://127.0.0.1:1",
					test.setting: test.value,
				} {
					t.Setenv(setting, value)
				}
				_, err := functions[name](t.Context())
				if err == nil {
					t.Fatal("New: got no error, want one that names the setting")
				}
				if text := err.Error(); strings.Count(text, test.setting) != 1 || strings.Contains(text, "hunter2") {
					t.Errorf("error: got %q, want %s in it once, and no password", text, test.setting)
				}
			})
		}
	}
}
