package acceptance_test

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	reflectionpb "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/dynamicpb"

	"github.com/kiosk-shop/kiosk/faasd/acceptance/client"
	"github.com/kiosk-shop/kiosk/proto/prototest"
)

// rpcs maps requests of the REST contract to RPCs. inside is the field of the RPC's answer
// that has the body of the REST answer; if it is empty, the whole answer is.
var rpcs = []struct{ method, route, inside string }{
	{"/pb.UserService/RegisterUser", "POST /api/users/register", ""},
	{"/pb.UserService/AuthenticateUser", "POST /api/users/authenticate", ""},
	{"/pb.UserService/GetUserProfile", "GET /api/users/{id}", ""},
	{"/pb.InventoryService/CreateProduct", "POST /api/inventory", "product"},
	{"/pb.InventoryService/GetProduct", "GET /api/inventory/{id}", "product"},
	{"/pb.InventoryService/UpdateProduct", "PUT /api/inventory/{id}", "product"},
	{"/pb.InventoryService/DeleteProduct", "DELETE /api/inventory/{id}", ""},
	{"/pb.InventoryService/ListProducts", "GET /api/inventory", "products"},
	{"/pb.OrderService/CreateOrder", "POST /api/orders", ""},
	{"/pb.OrderService/GetOrder", "GET /api/orders/{id}", ""},
	{"/pb.OrderService/UpdateOrderStatus", "PUT /api/orders/{id}/status", ""},
	{"/pb.OrderService/ListUserOrders", "GET /api/orders", "orders"},
	{"/mailer.MailerService/SendEmail", "POST /api/email", ""},
}

// codesOf is the contract's mapping of HTTP statuses to gRPC codes.
func codesOf(status int) []string {
	code := func(all ...codes.Code) (names []string) {
		for _, c := range all {
			names = append(names, c.String())
		}
		return names
	}
	switch status {
	case http.StatusOK, http.StatusCreated, http.StatusNoContent:
		return code(codes.OK)
	case http.StatusBadRequest, http.StatusUnprocessableEntity:
		return code(codes.InvalidArgument)
	case http.StatusUnauthorized:
		return code(codes.Unauthenticated)
	case http.StatusForbidden:
		return code(codes.PermissionDenied)
	case http.StatusNotFound:
		return code(codes.NotFound)
	case http.StatusConflict:
		return code(codes.AlreadyExists, codes.FailedPrecondition)
	case http.StatusTooManyRequests:
		return code(codes.ResourceExhausted)
	case http.StatusServiceUnavailable:
		return code(codes.Unavailable)
	case http.StatusGatewayTimeout:
		return code(codes.DeadlineExceeded)
	}
	return nil
}

// rpcDoor is the gRPC facade, with a client that uses only the contract. Requests without
// an RPC, or with a field that the RPC lacks, are sent to the front door.
type rpcDoor struct {
	conn  *grpc.ClientConn
	front httpDoor

	mu   sync.Mutex
	used map[string]bool // by method
}

func newRPCDoor(t testing.TB, s *shop) *rpcDoor {
	t.Helper()
	conn, err := grpc.NewClient("passthrough:///"+s.Target.GRPC, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return &rpcDoor{conn: conn, front: httpDoor{s.Client}, used: map[string]bool{}}
}

func (d *rpcDoor) String() string { return "gRPC" }

func (d *rpcDoor) call(t testing.TB, r client.Request) reply {
	t.Helper()
	all, err := prototest.Methods()
	if err != nil {
		t.Fatal(err)
	}
	for _, rpc := range rpcs {
		in := dynamicpb.NewMessage(all[rpc.method].Input())
		md, ok := translate(rpc.route, r, in)
		if !ok {
			continue
		}
		d.mu.Lock()
		d.used[rpc.method] = true
		d.mu.Unlock()
		return invoke(t, d.conn, rpc.method, rpc.inside, in, md)
	}
	return d.front.call(t, r)
}

// translate returns a REST request as the message of the route's RPC, and reports whether
// the message can express it.
func translate(route string, r client.Request, in *dynamicpb.Message) (metadata.MD, bool) {
	method, pattern, _ := strings.Cut(route, " ")
	path, query, _ := strings.Cut(r.Path, "?")
	before, after, variable := strings.Cut(pattern, "{id}")
	id, ok := strings.CutPrefix(path, before)
	if ok {
		id, ok = strings.CutSuffix(id, after)
	}
	if r.Method != method || !ok || strings.Contains(id, "/") || variable != (id != "") {
		return nil, false
	}
	fields := map[string]any{}
	switch body := r.Body.(type) {
	case nil:
	case string, []byte:
		return nil, false // a body that is tested as it is
	default:
		text, err := json.Marshal(body)
		if err != nil || json.Unmarshal(text, &fields) != nil {
			return nil, false
		}
	}
	values, err := url.ParseQuery(query)
	if err != nil {
		return nil, false
	}
	for name := range values {
		fields[name] = values.Get(name)
		if name == "page" || name == "limit" {
			// protojson would accept a number as text, but also 1e3.
			if fields[name], err = strconv.ParseInt(values.Get(name), 10, 64); err != nil {
				return nil, false
			}
		}
	}
	if variable {
		fields["id"] = id
	}
	text, err := json.Marshal(fields)
	if err != nil || protojson.Unmarshal(text, in) != nil {
		return nil, false
	}
	md := metadata.MD{}
	for name, values := range r.Header {
		switch name {
		case "Idempotency-Key", "Traceparent", "Tracestate", "X-Call-Id", "Authorization":
			md.Append(strings.ToLower(name), values...)
		default:
			return nil, false
		}
	}
	if r.Token != "" {
		md.Append("authorization", "Bearer "+r.Token)
	}
	return md, true
}

func invoke(t testing.TB, conn *grpc.ClientConn, method, inside string, in *dynamicpb.Message, md metadata.MD) reply {
	t.Helper()
	all, err := prototest.Methods()
	if err != nil {
		t.Fatal(err)
	}
	out := dynamicpb.NewMessage(all[method].Output())
	ctx, cancel := context.WithTimeout(metadata.NewOutgoingContext(t.Context(), md), 30*time.Second)
	defer cancel()
	var header metadata.MD
	err = conn.Invoke(ctx, method, in, out, grpc.Header(&header))
	s := status.Convert(err)
	answer := reply{rpc: method, code: s.Code().String(), raw: s.Message(), header: http.Header{}}
	for name, values := range header {
		answer.header[http.CanonicalHeaderKey(name)] = values
	}
	for _, detail := range s.Details() {
		if bad, ok := detail.(*errdetails.BadRequest); ok {
			for _, violation := range bad.FieldViolations {
				answer.fields = append(answer.fields, violation.Field)
			}
		}
	}
	if err != nil {
		return answer
	}
	if len(out.GetUnknown()) > 0 {
		t.Logf("%s answers with fields that an older client does not know", method)
	}
	text, err := protojson.MarshalOptions{UseProtoNames: true, EmitUnpopulated: true}.Marshal(out)
	if err == nil {
		err = json.Unmarshal(text, &answer.body)
	}
	if err != nil {
		t.Fatal(err)
	}
	answer.raw = string(text)
	if o, ok := answer.body.(map[string]any); ok && inside != "" {
		answer.body = o[inside]
	}
	return answer
}

// Reflection and grpc.health.v1 are enabled, for tools without the .proto files.
func TestReflectionAndHealth(t *testing.T) {
	d := newRPCDoor(t, shared())
	services := map[string]bool{"grpc.health.v1.Health": true}
	all, err := prototest.Methods()
	if err != nil {
		t.Fatal(err)
	}
	for _, method := range all {
		services[string(method.Parent().FullName())] = true
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	stream, err := reflectionpb.NewServerReflectionClient(d.conn).ServerReflectionInfo(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Send(&reflectionpb.ServerReflectionRequest{MessageRequest: &reflectionpb.ServerReflectionRequest_ListServices{}}); err != nil {
		t.Fatal(err)
	}
	answer, err := stream.Recv()
	if err != nil {
		t.Fatal(err)
	}
	for _, service := range answer.GetListServicesResponse().GetService() {
		delete(services, service.Name)
	}
	if len(services) > 0 {
		t.Errorf("reflection does not know of %v", services)
	}
	for _, service := range []string{"", "pb.UserService", "pb.InventoryService", "pb.OrderService", "mailer.MailerService"} {
		health, err := healthpb.NewHealthClient(d.conn).Check(ctx, &healthpb.HealthCheckRequest{Service: service})
		if err != nil || health.Status != healthpb.HealthCheckResponse_SERVING {
			t.Errorf("the health of %q is %v, %v", service, health.GetStatus(), err)
		}
	}
}
