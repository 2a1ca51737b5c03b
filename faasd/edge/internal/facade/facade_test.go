package facade_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	reflectionpb "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/dynamicpb"

	"github.com/kiosk-shop/kiosk/faasd/edge/internal/facade"
	"github.com/kiosk-shop/kiosk/faasd/edge/internal/gateway"
	"github.com/kiosk-shop/kiosk/proto/prototest"
)

func TestMain(m *testing.M) {
	slog.SetDefault(slog.New(slog.DiscardHandler))
	os.Exit(m.Run())
}

const (
	id      = "0123456789abcdef01234567"
	otherID = "89abcdef0123456789abcdef"
)

// shop is the gateway with functions as a test wants them.
type shop struct {
	http.HandlerFunc
	mu    sync.Mutex
	asked []asked
}

type asked struct {
	call   string // method, path and query
	body   string
	header http.Header
}

func (s *shop) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == "/healthz" {
		return
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	s.mu.Lock()
	s.asked = append(s.asked, asked{r.Method + " " + r.URL.RequestURI(), string(body), r.Header})
	s.mu.Unlock()
	s.HandlerFunc(w, r)
}

func (s *shop) requests() []asked {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.asked)
}

// says is a function that always answers the same; header is "Name: value".
func says(status int, body string, header ...string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		if status >= 400 {
			w.Header().Set("Content-Type", "application/problem+json")
		}
		for _, h := range header {
			name, value, _ := strings.Cut(h, ": ")
			w.Header().Set(name, value)
		}
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	}
}

// client is a program built from the contract alone.
type client struct {
	t    *testing.T
	conn *grpc.ClientConn
	// What the last call brought back beside its answer.
	header metadata.MD
}

// call sends a request written in JSON and returns the answer so written.
func (c *client) call(ctx context.Context, name, request string, options ...grpc.CallOption) (string, error) {
	c.t.Helper()
	all, err := prototest.Methods()
	if err != nil {
		c.t.Fatal(err)
	}
	method, ok := all[name]
	if !ok {
		c.t.Fatalf("contract: got no %s, want it", name)
	}
	in, out := dynamicpb.NewMessage(method.Input()), dynamicpb.NewMessage(method.Output())
	if err := protojson.Unmarshal([]byte(request), in); err != nil {
		c.t.Fatal(err)
	}
	if err := c.conn.Invoke(ctx, name, in, out, append(options, grpc.Header(&c.header))...); err != nil {
		return "", err
	}
	if len(out.GetUnknown()) > 0 {
		c.t.Errorf("%s: got fields %v, want the contract's alone", name, out.GetUnknown())
	}
	answer, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(out)
	if err != nil {
		c.t.Fatal(err)
	}
	return string(answer), nil
}

// open starts a facade before functions, on a real socket.
func open(t *testing.T, config facade.Config, functions http.HandlerFunc) (*client, *shop, *facade.Server) {
	t.Helper()
	s := &shop{HandlerFunc: functions}
	web := httptest.NewServer(s)
	t.Cleanup(web.Close)
	g, err := gateway.New(web.URL, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(g.Close)
	server := facade.New(g, config)
	address := serve(t, server)
	return dial(t, address, insecure.NewCredentials()), s, server
}

func serve(t *testing.T, server *facade.Server) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		server.Stop(ctx)
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	return listener.Addr().String()
}

func dial(t *testing.T, address string, creds credentials.TransportCredentials) *client {
	t.Helper()
	conn, err := grpc.NewClient("passthrough:///"+address, grpc.WithTransportCredentials(creds))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return &client{t: t, conn: conn}
}

func sameJSON(t *testing.T, what, got, want string) {
	t.Helper()
	var g, w any
	if got != "" || want != "" {
		if err := errors.Join(json.Unmarshal([]byte(got), &g), json.Unmarshal([]byte(want), &w)); err != nil {
			t.Fatalf("%s: got %s, %v, want JSON", what, got, err)
		}
	}
	if !reflect.DeepEqual(g, w) {
		t.Errorf("%s: got %s, want %s", what, got, want)
	}
}

func TestContract(t *testing.T) {
	const product = `{"id":"` + id + `","name":"Tea","description":"Green","category":"drinks","stock":5,"price":19.99,"currency":"USD","sku":"T-1","image_url":"https://x.example/t.png","created_at":"2026-01-01T00:00:00Z","updated_at":"2026-01-01T00:00:00Z"}`
	const productMessage = `{"id":"` + id + `","name":"Tea","description":"Green","category":"drinks","stock":5,"price":19.99}`
	const order = `{"id":"` + id + `","user_id":"` + otherID + `","items":[{"product_id":"` + id + `","name":"Tea","quantity":2,"unit_price":19.99}],"total":39.98,"currency":"USD","status":"PENDING","stock":"TAKEN","history":[],"created_at":"2026-01-01T00:00:00Z"}`
	const orderMessage = `{"id":"` + id + `","user_id":"` + otherID + `","items":[{"product_id":"` + id + `","quantity":2}],"total":39.98,"status":"PENDING"}`
	tests := []struct {
		name, method, request string
		function              http.HandlerFunc
		call, body            string // what the function is asked
		want                  string
	}{
		{"register", "/pb.UserService/RegisterUser", `{"username":"ann","password":"pw","email":"ann@x.example"}`,
			says(201, `{"id":"`+id+`","message":"welcome"}`), "POST /function/register",
			`{"username":"ann","password":"pw","email":"ann@x.example"}`, `{"id":"` + id + `","message":"welcome"}`},
		{"register without a name", "/pb.UserService/RegisterUser", `{"password":"pw","email":"ann@x.example"}`,
			says(201, `{"id":"`+id+`","message":"welcome"}`), "POST /function/register",
			`{"password":"pw","email":"ann@x.example"}`, `{"id":"` + id + `","message":"welcome"}`},
		{"authenticate", "/pb.UserService/AuthenticateUser", `{"username":"ann","password":"pw"}`,
			says(200, `{"token":"t","message":"hello","token_type":"Bearer","expires_in":900,"refresh_token":"r"}`), "POST /function/authenticate",
			`{"username":"ann","password":"pw"}`, `{"token":"t","message":"hello"}`},
		{"profile", "/pb.UserService/GetUserProfile", `{"id":"` + id + `"}`,
			says(200, `{"id":"`+id+`","username":"ann","email":"ann@x.example","name":"Ann","role":"user","created_at":"2026-01-01T00:00:00Z"}`),
			"GET /function/users/" + id, "", `{"id":"` + id + `","username":"ann","email":"ann@x.example"}`},
		{"own profile", "/pb.UserService/GetUserProfile", `{"id":"me"}`, says(200, `{"id":"`+id+`"}`), "GET /function/users/me", "", `{"id":"` + id + `"}`},

		{"create a product", "/pb.InventoryService/CreateProduct", `{"name":"Tea","description":"Green","category":"drinks","stock":5,"price":19.99}`,
			says(201, product), "POST /function/products", `{"name":"Tea","description":"Green","category":"drinks","stock":5,"price":19.99}`, `{"product":` + productMessage + `}`},
		{"create an empty product", "/pb.InventoryService/CreateProduct", `{}`,
			says(201, product), "POST /function/products", `{"name":"","category":"","stock":0,"price":0}`, `{"product":` + productMessage + `}`},
		{"get a product", "/pb.InventoryService/GetProduct", `{"id":"` + id + `"}`, says(200, product), "GET /function/products/" + id, "", `{"product":` + productMessage + `}`},
		{"delete a product", "/pb.InventoryService/DeleteProduct", `{"id":"` + id + `"}`, says(200, `{"message":"gone"}`), "DELETE /function/products/" + id, "", `{"message":"gone"}`},
		{"list products", "/pb.InventoryService/ListProducts", `{}`, says(200, "["+product+"]"), "GET /function/products", "", `{"products":[` + productMessage + `]}`},
		{"list a page of a category", "/pb.InventoryService/ListProducts", `{"category":"tea & more","page":2,"limit":50}`,
			says(200, "[]"), "GET /function/products?category=tea+%26+more&limit=50&page=2", "", `{}`},
		{"list nonsense, for the function to refuse", "/pb.InventoryService/ListProducts", `{"page":-1,"limit":-5}`,
			says(200, "[]"), "GET /function/products?limit=-5&page=-1", "", `{}`},

		{"create an order", "/pb.OrderService/CreateOrder", `{"user_id":"` + otherID + `","items":[{"product_id":"` + id + `","quantity":2}],"total":39.98}`,
			says(201, `{"id":"`+id+`","message":"placed","status":"PENDING"}`), "POST /function/create-order",
			`{"user_id":"` + otherID + `","items":[{"product_id":"` + id + `","quantity":2}],"total":39.98}`, `{"id":"` + id + `","message":"placed"}`},
		{"create one's own order", "/pb.OrderService/CreateOrder", `{"items":[{"product_id":"` + id + `","quantity":2}]}`,
			says(201, `{"id":"`+id+`","message":"placed"}`), "POST /function/create-order",
			`{"items":[{"product_id":"` + id + `","quantity":2}]}`, `{"id":"` + id + `","message":"placed"}`},
		{"create an order of nothing", "/pb.OrderService/CreateOrder", `{}`, says(201, `{"id":"`+id+`"}`), "POST /function/create-order", `{"items":[]}`, `{"id":"` + id + `"}`},
		{"get an order", "/pb.OrderService/GetOrder", `{"id":"` + id + `"}`, says(200, order), "GET /function/orders/" + id, "", orderMessage},
		{"complete an order", "/pb.OrderService/UpdateOrderStatus", `{"id":"` + id + `","status":"COMPLETED"}`,
			says(200, `{"id":"`+id+`","message":"done","status":"COMPLETED"}`), "PUT /function/orders/" + id + "/status", `{"status":"COMPLETED"}`, `{"id":"` + id + `","message":"done"}`},
		{"list a user's orders", "/pb.OrderService/ListUserOrders", `{"user_id":"` + otherID + `"}`,
			says(200, "["+order+"]"), "GET /function/orders?limit=100&user_id=" + otherID, "", `{"orders":[` + orderMessage + `]}`},
		{"list one's own orders", "/pb.OrderService/ListUserOrders", `{}`, says(200, "[]"), "GET /function/orders?limit=100", "", `{}`},

		{"send a mail", "/mailer.MailerService/SendEmail", `{"to_email":"ann@x.example","subject":"Hi","html_body":"<b>Hi</b>"}`,
			says(200, `{"status":"sent","message":"on its way"}`), "POST /function/send-email",
			`{"to_email":"ann@x.example","subject":"Hi","html_body":"<b>Hi</b>"}`, `{"status":"sent","message":"on its way"}`},
	}
	seen := make(map[string]bool)
	for _, test := range tests {
		seen[test.method] = true
		t.Run(test.name, func(t *testing.T) {
			c, s, _ := open(t, facade.Config{}, test.function)
			answer, err := c.call(t.Context(), test.method, test.request)
			if err != nil {
				t.Fatal(err)
			}
			sameJSON(t, "answer", answer, test.want)
			got := s.requests()
			if len(got) != 1 || got[0].call != test.call {
				t.Fatalf("the functions were asked %v, want %s", got, test.call)
			}
			sameJSON(t, "the function's body", got[0].body, test.body)
		})
	}
	seen["/pb.InventoryService/UpdateProduct"] = true // below
	all, err := prototest.Methods()
	if err != nil {
		t.Fatal(err)
	}
	for name := range all {
		if !seen[name] {
			t.Errorf("%s: got no case, want one", name)
		}
	}
}

func TestUpdateProduct(t *testing.T) {
	const request = `{"id":"` + id + `","name":"New","description":"","category":"drinks","stock":7,"price":5}`
	revision, clashes := 1, 2
	var mu sync.Mutex
	c, s, _ := open(t, facade.Config{}, func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		w.Header().Set("ETag", fmt.Sprintf(`"%d"`, revision))
		if r.Method == "GET" {
			says(200, fmt.Sprintf(`{"id":"%s","name":"Old","description":"Old","category":"old","stock":1,"price":1,"currency":"USD","sku":"S-%d","image_url":"https://x.example/i"}`, id, revision))(w, r)
			return
		}
		if clashes > 0 { // somebody else was faster
			clashes--
			revision++
			says(412, `{"title":"Precondition Failed","status":412,"detail":"changed meanwhile"}`)(w, r)
			return
		}
		says(200, `{"id":"`+id+`","name":"New","category":"drinks","stock":7,"price":5}`)(w, r)
	})
	answer, err := c.call(t.Context(), "/pb.InventoryService/UpdateProduct", request)
	if err != nil {
		t.Fatal(err)
	}
	sameJSON(t, "answer", answer, `{"product":{"id":"`+id+`","name":"New","category":"drinks","stock":7,"price":5}}`)
	got := s.requests()
	if len(got) != 6 {
		t.Fatalf("got %d calls, want three times GET and PUT", len(got))
	}
	last := got[5]
	if last.call != "PUT /function/products/"+id || last.header.Get("If-Match") != `"3"` {
		t.Errorf("last call: got %s, If-Match %s, want PUT with \"3\"", last.call, last.header.Get("If-Match"))
	}
	sameJSON(t, "the product", last.body, `{"name":"New","category":"drinks","stock":7,"price":5,"sku":"S-3","image_url":"https://x.example/i"}`)

	clashes = 1000
	if _, err := c.call(t.Context(), "/pb.InventoryService/UpdateProduct", request); status.Code(err) != codes.FailedPrecondition {
		t.Errorf("a product that always changes: got %v, want FAILED_PRECONDITION", err)
	}
	if calls := len(s.requests()); calls != 6+10 {
		t.Errorf("stopped after %d calls, want 6 more", calls-6)
	}
}

func TestListUserOrdersCollectsPages(t *testing.T) {
	total := 230
	c, s, _ := open(t, facade.Config{}, func(w http.ResponseWriter, r *http.Request) {
		query := r.URL.Query()
		start := 0
		_, _ = fmt.Sscanf(query.Get("after"), "place-%d", &start)
		if query.Get("limit") != "100" || query.Get("user_id") != id || query.Has("page") {
			t.Errorf("query: got %v, want the user's, 100 a page", query)
		}
		w.Header().Set("X-Total-Count", fmt.Sprint(min(total, 10_000)))
		if total > 10_000 {
			w.Header().Set("X-Total-Count-Exact", "false")
		}
		if start+100 < total {
			w.Header().Set("Link", fmt.Sprintf(`</api/orders?page=1>; rel="first", </api/orders?after=place-%d&limit=100>; rel="next"`, start+100))
		}
		var list []string
		for n := start; n < min(start+100, total); n++ {
			list = append(list, fmt.Sprintf(`{"id":"%024d"}`, n))
		}
		says(200, "["+strings.Join(list, ",")+"]")(w, r)
	})
	list := func() (ids []string) {
		t.Helper()
		answer, err := c.call(t.Context(), "/pb.OrderService/ListUserOrders", `{"user_id":"`+id+`"}`)
		if err != nil {
			t.Fatal(err)
		}
		var list struct{ Orders []struct{ ID string } }
		if err := json.Unmarshal([]byte(answer), &list); err != nil {
			t.Fatal(err)
		}
		for n, o := range list.Orders {
			if o.ID != fmt.Sprintf("%024d", n) {
				t.Fatalf("order %d: got %s, want %024d", n, o.ID, n)
			}
			ids = append(ids, o.ID)
		}
		return ids
	}
	if got := len(list()); got != 230 || len(s.requests()) != 3 {
		t.Errorf("got %d orders in %d calls, want 230 in 3", got, len(s.requests()))
	}
	if got := c.header.Get("x-total-count"); !slices.Equal(got, []string{"230"}) || len(c.header.Get("x-total-count-exact")) > 0 {
		t.Errorf("x-total-count: got %v, want 230, exact", got)
	}
	total = 100_000
	before := len(s.requests())
	if got := len(list()); got != 1000 || len(s.requests())-before != 10 {
		t.Errorf("got %d orders in %d calls, want 1000 in 10", got, len(s.requests())-before)
	}
	if got := c.header.Get("x-total-count-exact"); !slices.Equal(got, []string{"false"}) {
		t.Errorf("x-total-count-exact: got %v, want false", got)
	}
}

func TestRefusals(t *testing.T) {
	problem := func(status int) string {
		return fmt.Sprintf(`{"type":"about:blank","title":"Title","status":%d,"detail":"what to do","errors":[{"field":"email","message":"is taken"}]}`, status)
	}
	tests := []struct {
		status int
		method string
		want   codes.Code
	}{
		{400, "/pb.UserService/RegisterUser", codes.InvalidArgument},
		{401, "/pb.UserService/AuthenticateUser", codes.Unauthenticated},
		{403, "/pb.InventoryService/CreateProduct", codes.PermissionDenied},
		{404, "/pb.OrderService/GetOrder", codes.NotFound},
		{409, "/pb.UserService/RegisterUser", codes.AlreadyExists},
		{409, "/pb.InventoryService/CreateProduct", codes.AlreadyExists},
		{409, "/pb.OrderService/CreateOrder", codes.FailedPrecondition},
		{409, "/pb.OrderService/UpdateOrderStatus", codes.FailedPrecondition},
		{409, "/mailer.MailerService/SendEmail", codes.FailedPrecondition},
		{413, "/mailer.MailerService/SendEmail", codes.ResourceExhausted},
		{422, "/pb.OrderService/CreateOrder", codes.InvalidArgument},
		{429, "/pb.UserService/AuthenticateUser", codes.ResourceExhausted},
		{500, "/pb.OrderService/GetOrder", codes.Internal},
		{503, "/pb.OrderService/GetOrder", codes.Unavailable},
		{504, "/pb.OrderService/GetOrder", codes.DeadlineExceeded},
	}
	for _, test := range tests {
		t.Run(fmt.Sprint(test.status, " ", test.method), func(t *testing.T) {
			request := `{}`
			if strings.Contains(test.method, "Order/") || strings.HasSuffix(test.method, "GetOrder") || strings.HasSuffix(test.method, "Status") {
				request = `{"id":"` + id + `"}`
			}
			c, _, _ := open(t, facade.Config{}, says(test.status, problem(test.status), "RateLimit-Limit: 5", "Retry-After: 3"))
			_, err := c.call(t.Context(), test.method, request)
			s := status.Convert(err)
			if s.Code() != test.want || s.Message() != "what to do" {
				t.Fatalf("got %v, want %s: what to do", err, test.want)
			}
			var fields []string
			var delay time.Duration
			for _, detail := range s.Details() {
				switch d := detail.(type) {
				case *errdetails.BadRequest:
					for _, v := range d.FieldViolations {
						fields = append(fields, v.Field+" "+v.Description)
					}
				case *errdetails.RetryInfo:
					delay = d.RetryDelay.AsDuration()
				}
			}
			if !slices.Equal(fields, []string{"email is taken"}) || delay != 3*time.Second {
				t.Errorf("details: got %v, want the field email and 3 s", s.Details())
			}
		})
	}
	t.Run("the gateway's own", func(t *testing.T) {
		c, _, _ := open(t, facade.Config{}, func(w http.ResponseWriter, r *http.Request) {
			http.Error(w, "no endpoints available for: orders", http.StatusNotFound)
		})
		if _, err := c.call(t.Context(), "/pb.OrderService/GetOrder", `{"id":"`+id+`"}`); status.Code(err) != codes.Unavailable {
			t.Errorf("a function that does not exist: got %v, want UNAVAILABLE", err)
		}
	})
	t.Run("nonsense", func(t *testing.T) {
		c, _, _ := open(t, facade.Config{}, says(200, `<html>`))
		if _, err := c.call(t.Context(), "/pb.OrderService/GetOrder", `{"id":"`+id+`"}`); status.Code(err) != codes.Internal || strings.Contains(err.Error(), "<") {
			t.Errorf("got %v, want INTERNAL without the answer's text", err)
		}
	})
}

func TestIdentifiers(t *testing.T) {
	c, s, _ := open(t, facade.Config{}, says(200, `{}`))
	for _, method := range []string{
		"/pb.UserService/GetUserProfile", "/pb.InventoryService/GetProduct", "/pb.InventoryService/UpdateProduct",
		"/pb.InventoryService/DeleteProduct", "/pb.OrderService/GetOrder", "/pb.OrderService/UpdateOrderStatus",
	} {
		for _, bad := range []string{"", "1", id + "0", id[1:] + "g", "../orders", "../../system/functions", id + "/status", id[1:] + "?", "%2e%2e"} {
			if _, err := c.call(t.Context(), method, fmt.Sprintf(`{"id":%q}`, bad)); status.Code(err) != codes.NotFound {
				t.Errorf("%s of %q: got %v, want NOT_FOUND", method, bad, err)
			}
		}
	}
	if got := s.requests(); len(got) > 0 {
		t.Errorf("calls: got %v, want none", got)
	}
}

func TestMoney(t *testing.T) {
	tests := map[string]string{ // what a client computed: what the function reads
		`19.99`: `19.99`, `0.1`: `0.1`, `5`: `5`, `0.30000000000000004`: `0.3`, `59.96999999999999`: `59.97`, `1.005`: `1.005`, `19.999`: `19.999`,
		`-1`: `-1`, `1e15`: `1000000000000000`, `0.001`: `0.001`, `1e-9`: `0`, `92233720368547758`: `92233720368547760`,
	}
	for sent, want := range tests {
		c, s, _ := open(t, facade.Config{}, says(201, `{}`))
		if _, err := c.call(t.Context(), "/pb.InventoryService/CreateProduct", `{"price":`+sent+`}`); err != nil {
			t.Fatal(err)
		}
		if body := s.requests()[0].body; !strings.Contains(body, `"price":`+want+`}`) {
			t.Errorf("%s: got %s, want the same amount", sent, body)
		}
	}
	c, s, _ := open(t, facade.Config{}, says(201, `{}`))
	for _, bad := range []string{`"NaN"`, `"Infinity"`, `"-Infinity"`} {
		for method, request := range map[string]string{
			"/pb.InventoryService/CreateProduct": `{"price":` + bad + `}`,
			"/pb.InventoryService/UpdateProduct": `{"id":"` + id + `","price":` + bad + `}`,
			"/pb.OrderService/CreateOrder":       `{"total":` + bad + `}`,
		} {
			if _, err := c.call(t.Context(), method, request); status.Code(err) != codes.InvalidArgument || len(status.Convert(err).Details()) != 1 {
				t.Errorf("%s %s: got %v, want INVALID_ARGUMENT with a detail", method, request, err)
			}
		}
	}
	if got := s.requests(); len(got) > 0 {
		t.Errorf("calls: got %v, want none", got)
	}
}

func TestMetadata(t *testing.T) {
	const parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
	c, s, _ := open(t, facade.Config{}, says(201, `{}`, "Idempotent-Replayed: true"))
	ctx := metadata.AppendToOutgoingContext(t.Context(),
		"authorization", "Bearer token", "idempotency-key", "k-1", "traceparent", parent, "tracestate", "a=1", "x-call-id", "call-1",
		"x-forwarded-for", "203.0.113.9", "x-function-path", "/admin", "x-callback-url", "http://169.254.169.254/", "if-match", "*", "x-timeout", "1ms")
	if _, err := c.call(ctx, "/pb.OrderService/CreateOrder", `{}`); err != nil {
		t.Fatal(err)
	}
	got := s.requests()[0].header
	got.Del("X-Timeout")
	want := http.Header{
		"Authorization": {"Bearer token"}, "Idempotency-Key": {"k-1"}, "Traceparent": {parent}, "Tracestate": {"a=1"}, "X-Call-Id": {"call-1"},
		"X-Forwarded-For": {"127.0.0.1"}, "Content-Type": {"application/json"},
		"Content-Length": {"12"}, "User-Agent": {"Go-http-client/1.1"}, // net/http's own
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("header: got %v, want the metadata that counts", got)
	}
	if c.header.Get("x-call-id")[0] != "call-1" || c.header.Get("idempotent-replayed")[0] != "true" {
		t.Errorf("metadata: got %v, want x-call-id and idempotent-replayed", c.header)
	}

	if _, err := c.call(t.Context(), "/pb.OrderService/GetOrder", `{"id":"1"}`); status.Code(err) != codes.NotFound || len(c.header.Get("x-call-id")) != 1 {
		t.Errorf("a refusal: got %v, %v, want NOT_FOUND with a call id", err, c.header)
	}
	if _, err := c.call(t.Context(), "/pb.OrderService/CreateOrder", `{}`); err != nil {
		t.Fatal(err)
	}
	if got := s.requests()[1].header; got.Get("X-Call-Id") == "" || got.Get("Traceparent") != "" || got.Get("Authorization") != "" {
		t.Errorf("without metadata: got %v, want a call id alone", got)
	}
}

func TestTrustNetwork(t *testing.T) {
	tests := []struct {
		name              string
		trust             bool
		metadata          []string
		wantAuthorization string
		wantClient        string
	}{
		{"off", false, nil, "", "127.0.0.1"},
		{"off, with a token", false, []string{"authorization", "Bearer mine"}, "Bearer mine", "127.0.0.1"},
		{"off, whoever says who it is", false, []string{"x-forwarded-for", "203.0.113.9"}, "", "127.0.0.1"},
		{"on", true, nil, "Bearer service-token", "127.0.0.1"},
		{"on, with a token", true, []string{"authorization", "Bearer mine"}, "Bearer mine", "127.0.0.1"},
		{"on, with a token that is empty", true, []string{"authorization", ""}, "", "127.0.0.1"},
		{"on, for a client", true, []string{"x-forwarded-for", "8.8.8.8, 203.0.113.9"}, "Bearer service-token", "203.0.113.9"},
		{"on, for nobody", true, []string{"x-forwarded-for", "unknown"}, "Bearer service-token", "127.0.0.1"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			c, s, _ := open(t, facade.Config{TrustNetwork: test.trust, ServiceToken: func() (string, error) { return "service-token", nil }}, says(200, `{}`))
			ctx := metadata.AppendToOutgoingContext(t.Context(), test.metadata...)
			if _, err := c.call(ctx, "/pb.OrderService/GetOrder", `{"id":"`+id+`"}`); err != nil {
				t.Fatal(err)
			}
			got := s.requests()[0].header
			if got.Get("Authorization") != test.wantAuthorization || got.Get("X-Forwarded-For") != test.wantClient {
				t.Errorf("header: got %v, want the service account's", got)
			}
		})
	}
	c, s, _ := open(t, facade.Config{TrustNetwork: true, ServiceToken: func() (string, error) { return "", errors.New("no secret") }}, says(200, `{}`))
	if _, err := c.call(t.Context(), "/pb.OrderService/GetOrder", `{"id":"`+id+`"}`); status.Code(err) != codes.Internal || len(s.requests()) > 0 {
		t.Errorf("without a token: got %v, %v, want INTERNAL and no call", err, s.requests())
	}
}

func TestDeadline(t *testing.T) {
	sent := make(chan string, 1)
	c, _, _ := open(t, facade.Config{}, func(w http.ResponseWriter, r *http.Request) {
		sent <- r.Header.Get("X-Timeout")
		<-r.Context().Done()
	})
	within := func(low, high time.Duration) {
		t.Helper()
		if d, err := time.ParseDuration(<-sent); err != nil || d <= low || d > high {
			t.Errorf("X-Timeout: got %v, %v, want above %s, at most %s", d, err, low, high)
		}
	}
	// A busy machine may need longer than that to reach the function.
	for limit := 200 * time.Millisecond; ; limit *= 2 {
		ctx, cancel := context.WithTimeout(t.Context(), limit)
		_, err := c.call(ctx, "/pb.OrderService/GetOrder", `{"id":"`+id+`"}`)
		cancel()
		if status.Code(err) != codes.DeadlineExceeded {
			t.Errorf("got %v, want DEADLINE_EXCEEDED", err)
		}
		if len(sent) > 0 {
			within(0, limit)
			break
		}
		if limit > 10*time.Second {
			t.Fatalf("the function was not called within %s", limit)
		}
	}

	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { _, err := c.call(ctx, "/pb.OrderService/GetOrder", `{"id":"`+id+`"}`); done <- err }()
	within(gateway.Timeout-15*time.Second, gateway.Timeout) // the client set none
	cancel()
	if err := <-done; status.Code(err) != codes.Canceled {
		t.Errorf("got %v, want CANCELLED", err)
	}
}

func TestMessageLimit(t *testing.T) {
	c, s, _ := open(t, facade.Config{}, says(200, `{}`))
	request := func(size int) string { return `{"html_body":"` + strings.Repeat("x", size) + `"}` }
	if _, err := c.call(t.Context(), "/mailer.MailerService/SendEmail", request(256<<10-100)); err != nil {
		t.Error(err)
	}
	if _, err := c.call(t.Context(), "/mailer.MailerService/SendEmail", request(256<<10)); status.Code(err) != codes.ResourceExhausted {
		t.Errorf("got %v, want RESOURCE_EXHAUSTED", err)
	}
	if got := len(s.requests()); got != 1 {
		t.Errorf("calls: got %d, want 1", got)
	}
}

// broken has a bug.
type broken struct{}

func (broken) Call(context.Context, gateway.Request) *gateway.Answer { panic("a bug") }
func (broken) Ready(context.Context) error                           { return errors.New("down") }

func TestPanic(t *testing.T) {
	c := dial(t, serve(t, facade.New(broken{}, facade.Config{})), insecure.NewCredentials())
	for range 2 {
		if _, err := c.call(t.Context(), "/pb.OrderService/GetOrder", `{"id":"`+id+`"}`); status.Code(err) != codes.Internal || strings.Contains(err.Error(), "bug") {
			t.Errorf("got %v, want INTERNAL without the panic's text", err)
		}
	}
}

func TestHealth(t *testing.T) {
	ask := func(c *client, service string) string {
		answer, err := healthpb.NewHealthClient(c.conn).Check(t.Context(), &healthpb.HealthCheckRequest{Service: service}, grpc.WaitForReady(true))
		if err != nil {
			return err.Error()
		}
		return answer.Status.String()
	}
	until := func(c *client, service, want string) {
		t.Helper()
		deadline := time.Now().Add(time.Minute)
		for got := ""; got != want; got = ask(c, service) {
			if time.Now().After(deadline) {
				t.Fatalf("%q is %s, not %s", service, got, want)
			}
			time.Sleep(time.Millisecond)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	var watching sync.WaitGroup
	defer watching.Wait()
	defer cancel()

	c, _, server := open(t, facade.Config{}, says(200, `{}`))
	watching.Go(func() { server.WatchHealth(ctx) })
	for _, service := range []string{"", "pb.UserService", "pb.InventoryService", "pb.OrderService", "mailer.MailerService"} {
		until(c, service, "SERVING")
	}
	lame := facade.New(broken{}, facade.Config{})
	watching.Go(func() { lame.WatchHealth(ctx) })
	until(dial(t, serve(t, lame), insecure.NewCredentials()), "pb.OrderService", "NOT_SERVING")
}

// TestReflection reads the contract back from the running server.
func TestReflection(t *testing.T) {
	c, _, _ := open(t, facade.Config{}, says(200, `{}`))
	stream, err := reflectionpb.NewServerReflectionClient(c.conn).ServerReflectionInfo(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ask := func(request *reflectionpb.ServerReflectionRequest) *reflectionpb.ServerReflectionResponse {
		t.Helper()
		if err := stream.Send(request); err != nil {
			t.Fatal(err)
		}
		answer, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		return answer
	}
	var services []string
	for _, s := range ask(&reflectionpb.ServerReflectionRequest{MessageRequest: &reflectionpb.ServerReflectionRequest_ListServices{}}).GetListServicesResponse().GetService() {
		services = append(services, s.Name)
	}
	want := []string{
		"grpc.health.v1.Health", "grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection",
		"mailer.MailerService", "pb.InventoryService", "pb.OrderService", "pb.UserService",
	}
	if slices.Sort(services); !slices.Equal(services, want) {
		t.Errorf("services: got %v, want the contract's", services)
	}
	all, err := prototest.Methods()
	if err != nil {
		t.Fatal(err)
	}
	for name, method := range all {
		service := string(method.Parent().FullName())
		answer := ask(&reflectionpb.ServerReflectionRequest{MessageRequest: &reflectionpb.ServerReflectionRequest_FileContainingSymbol{FileContainingSymbol: service}})
		var file descriptorpb.FileDescriptorProto
		if err := proto.Unmarshal(answer.GetFileDescriptorResponse().GetFileDescriptorProto()[0], &file); err != nil {
			t.Fatal(err)
		}
		if file.GetName() != method.ParentFile().Path() {
			t.Errorf("file of %s: got %s, want %s", name, file.GetName(), method.ParentFile().Path())
		}
		for i := range method.ParentFile().Messages().Len() {
			want := method.ParentFile().Messages().Get(i)
			at := slices.IndexFunc(file.MessageType, func(m *descriptorpb.DescriptorProto) bool { return m.GetName() == string(want.Name()) })
			if at < 0 {
				t.Errorf("there is no %s", want.FullName())
				continue
			}
			for j := range want.Fields().Len() {
				f := want.Fields().Get(j)
				if !slices.ContainsFunc(file.MessageType[at].Field, func(got *descriptorpb.FieldDescriptorProto) bool {
					return got.GetName() == string(f.Name()) && got.GetNumber() == int32(f.Number()) &&
						int8(got.GetType()) == int8(f.Kind()) && (got.GetLabel() == descriptorpb.FieldDescriptorProto_LABEL_REPEATED) == f.IsList()
				}) {
					t.Errorf("%s: got another form, want the contract's", f.FullName())
				}
			}
		}
	}
}

// authority issues certificates for a test.
type authority struct {
	t    *testing.T
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T) *authority {
	a := &authority{t: t}
	template := &x509.Certificate{IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	pair := a.issue(template)
	cert, err := x509.ParseCertificate(pair.Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	a.cert, a.key = cert, pair.PrivateKey.(*ecdsa.PrivateKey)
	return a
}

func (a *authority) issue(template *x509.Certificate) tls.Certificate {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	template.SerialNumber = big.NewInt(time.Now().UnixNano())
	template.NotBefore, template.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	parent, signer := a.cert, a.key
	if parent == nil {
		parent, signer = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
	if err != nil {
		a.t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

func (a *authority) server() tls.Certificate {
	return a.issue(&x509.Certificate{IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}})
}

func (a *authority) client() tls.Certificate {
	return a.issue(&x509.Certificate{ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
}

func (a *authority) pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(a.cert)
	return pool
}

func TestTLS(t *testing.T) {
	ours, theirs := newAuthority(t), newAuthority(t)
	oneWay := &tls.Config{Certificates: []tls.Certificate{ours.server()}}
	mutual := &tls.Config{Certificates: []tls.Certificate{ours.server()}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: ours.pool()}
	tests := []struct {
		name              string
		server            *tls.Config
		client            credentials.TransportCredentials
		metadata          []string
		want              codes.Code
		wantAuthorization string
	}{
		{"TLS, nobody", oneWay, credentials.NewTLS(&tls.Config{RootCAs: ours.pool()}), nil, codes.OK, ""},
		{"TLS, a token", oneWay, credentials.NewTLS(&tls.Config{RootCAs: ours.pool()}), []string{"authorization", "Bearer mine"}, codes.OK, "Bearer mine"},
		{"TLS, a certificate that nobody asked for", oneWay, credentials.NewTLS(&tls.Config{RootCAs: ours.pool(), Certificates: []tls.Certificate{ours.client()}}), nil, codes.OK, ""},
		{"TLS, plain text", oneWay, insecure.NewCredentials(), nil, codes.Unavailable, ""},
		{"TLS, a server that the client does not know", oneWay, credentials.NewTLS(&tls.Config{RootCAs: theirs.pool()}), nil, codes.Unavailable, ""},
		{"mutual, a certificate", mutual, credentials.NewTLS(&tls.Config{RootCAs: ours.pool(), Certificates: []tls.Certificate{ours.client()}}), nil, codes.OK, "Bearer service-token"},
		{"mutual, a certificate and a token", mutual, credentials.NewTLS(&tls.Config{RootCAs: ours.pool(), Certificates: []tls.Certificate{ours.client()}}), []string{"authorization", "Bearer mine"}, codes.OK, "Bearer mine"},
		{"mutual, no certificate", mutual, credentials.NewTLS(&tls.Config{RootCAs: ours.pool()}), nil, codes.Unavailable, ""},
		{"mutual, somebody else's certificate", mutual, credentials.NewTLS(&tls.Config{RootCAs: ours.pool(), Certificates: []tls.Certificate{theirs.client()}}), nil, codes.Unavailable, ""},
		{"mutual, a server's certificate", mutual, credentials.NewTLS(&tls.Config{RootCAs: ours.pool(), Certificates: []tls.Certificate{ours.server()}}), nil, codes.Unavailable, ""},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			s := &shop{HandlerFunc: says(200, `{}`)}
			web := httptest.NewServer(s)
			t.Cleanup(web.Close)
			g, err := gateway.New(web.URL, nil)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(g.Close)
			server := facade.New(g, facade.Config{TLS: test.server, ServiceToken: func() (string, error) { return "service-token", nil }})
			c := dial(t, serve(t, server), test.client)
			_, err = c.call(metadata.AppendToOutgoingContext(t.Context(), test.metadata...), "/pb.OrderService/GetOrder", `{"id":"`+id+`"}`)
			if status.Code(err) != test.want {
				t.Fatalf("got %v, want %s", err, test.want)
			}
			got := s.requests()
			if (len(got) == 1) != (test.want == codes.OK) {
				t.Fatalf("calls: got %v, want one", got)
			}
			if len(got) == 1 && got[0].header.Get("Authorization") != test.wantAuthorization {
				t.Errorf("Authorization: got %q, want the service account's", got[0].header.Get("Authorization"))
			}
		})
	}
}

func TestStop(t *testing.T) {
	for _, patient := range []bool{true, false} {
		t.Run(fmt.Sprint("patient: ", patient), func(t *testing.T) {
			called, finish := make(chan bool), make(chan bool)
			c, _, server := open(t, facade.Config{}, func(w http.ResponseWriter, r *http.Request) {
				called <- true
				select {
				case <-finish:
					says(200, `{"id":"`+id+`"}`)(w, r)
				case <-r.Context().Done():
				}
			})
			answered := make(chan error, 1)
			go func() {
				_, err := c.call(t.Context(), "/pb.OrderService/GetOrder", `{"id":"`+id+`"}`)
				answered <- err
			}()
			<-called
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			stopped := make(chan bool)
			go func() { server.Stop(ctx); close(stopped) }()
			want := codes.OK
			if patient {
				close(finish)
			} else {
				cancel()
				want = codes.Unavailable
			}
			if err := <-answered; status.Code(err) != want {
				t.Errorf("the call in progress: got %v, want nil", err)
			}
			<-stopped
		})
	}
}
