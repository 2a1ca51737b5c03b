package main

import (
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	handler "github.com/openfaas/templates-sdk/go-http"
	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	"google.golang.org/protobuf/proto"

	"github.com/kiosk-shop/kiosk/shared/telemetry"
)

// TestEveryRequestIsASpan calls a function that knows nothing of telemetry.
func TestEveryRequestIsASpan(t *testing.T) {
	requests := make(chan *collector.ExportTraceServiceRequest, 10)
	web := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		var request collector.ExportTraceServiceRequest
		if r.URL.Path == "/v1/traces" && proto.Unmarshal(body, &request) == nil {
			requests <- &request
		}
	}))
	t.Cleanup(web.Close)
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", web.URL)
	t.Setenv("OTEL_SERVICE_NAME", "stranger")
	t.Setenv("OTEL_BSP_SCHEDULE_DELAY", "10")
	stop, err := telemetry.Start(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(stop)
	var traceOfHandler string
	function, _ := start(t, fake{handle: func(r handler.Request) (handler.Response, error) {
		traceOfHandler = telemetry.Current(r.Context()).ID()
		return handler.Response{StatusCode: http.StatusTeapot}, nil
	}}, nil)
	const trace, caller = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
	call(t, http.MethodPut, function.URL+"/who/ada", "", http.Header{"X-Call-Id": {"abc"}, "Traceparent": {"00-" + trace + "-" + caller + "-01"}})
	if traceOfHandler != trace {
		t.Errorf("trace of the handler's context: got %q, want %q", traceOfHandler, trace)
	}
	select {
	case request := <-requests:
		span := request.ResourceSpans[0].ScopeSpans[0].Spans[0]
		attributes := map[string]string{}
		for _, a := range append(span.Attributes, request.ResourceSpans[0].Resource.Attributes...) {
			attributes[a.Key] = a.Value.GetStringValue()
		}
		if span.Name != "PUT" || attributes["faas.invocation_id"] != "abc" || attributes["service.name"] != "stranger" {
			t.Errorf("span: got %s, %v, want PUT of the call abc by stranger", span.Name, attributes)
		}
	case <-time.After(2 * time.Minute):
		t.Error("got no span, want one within two minutes")
	}
}
