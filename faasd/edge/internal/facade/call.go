package facade

import (
	"context"
	"encoding/json"
	"log/slog"
	"math"
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/protoadapt"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/kiosk-shop/kiosk/faasd/edge/internal/gateway"
	"github.com/kiosk-shop/kiosk/shared/problem"
)

// caller calls functions with the header of the RPC's caller.
type caller struct{ functions Functions }

// call is one call of a function.
type call struct {
	method   string
	function string
	query    url.Values
	ifMatch  string // ETag
	body     any    // JSON, unless nil
	creates  bool   // whether a conflict means that the thing is there already
}

// do makes the call and decodes its answer into result, unless that is nil. A refusal becomes a
// status error.
func (c caller) do(ctx context.Context, call call, result any) (http.Header, error) {
	header, _ := ctx.Value(callerKey{}).(http.Header)
	header = header.Clone()
	var body []byte
	if call.body != nil {
		var err error
		if body, err = json.Marshal(call.body); err != nil {
			return nil, status.Error(codes.Internal, "internal error")
		}
		header.Set("Content-Type", "application/json")
	}
	if call.ifMatch != "" {
		header.Set("If-Match", call.ifMatch)
	}
	answer := c.functions.Call(ctx, gateway.Request{
		Method: call.method, Function: call.function, Query: call.query.Encode(), Header: header, Body: body,
	})
	defer answer.Release()
	if answer.Status >= 400 {
		return nil, refusal(answer, call.creates)
	}
	if result == nil { // 204
		return answer.Header, nil
	}
	if err := json.Unmarshal(answer.Body, result); err != nil {
		slog.Error("cannot decode the function's answer", "function", call.function, "call_id", header.Get("X-Call-Id"), "error", err)
		return nil, status.Error(codes.Internal, "internal error")
	}
	return answer.Header, nil
}

// refusal returns the status error of a problem.
func refusal(answer *gateway.Answer, creates bool) error {
	code := codes.Unknown
	switch answer.Status {
	case http.StatusBadRequest, http.StatusUnprocessableEntity:
		code = codes.InvalidArgument
	case http.StatusUnauthorized:
		code = codes.Unauthenticated
	case http.StatusForbidden:
		code = codes.PermissionDenied
	case http.StatusNotFound:
		code = codes.NotFound
	case http.StatusConflict:
		code = codes.FailedPrecondition
		if creates {
			code = codes.AlreadyExists
		}
	case http.StatusPreconditionFailed:
		code = codes.FailedPrecondition
	case http.StatusRequestEntityTooLarge, http.StatusTooManyRequests:
		code = codes.ResourceExhausted
	case problem.StatusClientClosedRequest:
		code = codes.Canceled
	case http.StatusInternalServerError:
		code = codes.Internal
	case http.StatusServiceUnavailable:
		code = codes.Unavailable
	case http.StatusGatewayTimeout:
		code = codes.DeadlineExceeded
	}
	p := answer.Problem()
	message := p.Detail
	if message == "" {
		message = p.Title
	}
	var details []protoadapt.MessageV1
	if len(p.Errors) > 0 {
		bad := &errdetails.BadRequest{}
		for _, e := range p.Errors {
			bad.FieldViolations = append(bad.FieldViolations, &errdetails.BadRequest_FieldViolation{Field: e.Field, Description: e.Message})
		}
		details = append(details, bad)
	}
	if seconds, err := strconv.Atoi(answer.Header.Get("Retry-After")); err == nil {
		details = append(details, &errdetails.RetryInfo{RetryDelay: durationpb.New(time.Duration(seconds) * time.Second)})
	}
	return withDetails(status.New(code, message), details...)
}

func withDetails(s *status.Status, details ...protoadapt.MessageV1) error {
	if detailed, err := s.WithDetails(details...); err == nil {
		s = detailed
	}
	return s.Err()
}

// checkID fails with NOT_FOUND for what is not an identifier, as the front door does.
func checkID(id string) error {
	if !gateway.IsID(id) {
		return status.Error(codes.NotFound, "there is no such resource")
	}
	return nil
}

// decimal writes an amount of money in JSON. A double cannot hold most
// decimals, and one that was computed is off in its last bits: an amount that
// is within a millionth of a cent of a whole one is meant to be that. Any other
// goes as it is, for the function to refuse.
func decimal(field string, amount float64) (json.Number, error) {
	if math.IsNaN(amount) || math.IsInf(amount, 0) {
		return "", withDetails(status.New(codes.InvalidArgument, field+" is not a number"),
			&errdetails.BadRequest{FieldViolations: []*errdetails.BadRequest_FieldViolation{{Field: field, Description: "is not a number"}}})
	}
	if cents := math.Round(amount * 100); math.Abs(amount*100-cents) < 1e-6 {
		amount = cents / 100
	}
	return json.Number(strconv.FormatFloat(amount, 'f', -1, 64)), nil
}

// totalHeaders say how many items a list has.
var totalHeaders = []string{"X-Total-Count", "X-Total-Count-Exact"}

var nextLink = regexp.MustCompile(`<([^>]*)>; rel="next"`)

// next returns where the page after an answer's begins, as the answer's Link has it;
// empty where there is none.
func next(header http.Header) string {
	match := nextLink.FindStringSubmatch(header.Get("Link"))
	if match == nil {
		return ""
	}
	target, err := url.Parse(match[1])
	if err != nil {
		return ""
	}
	return target.Query().Get("after")
}
