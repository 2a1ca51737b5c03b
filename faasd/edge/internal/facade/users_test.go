package facade

import (
	"context"
	"net/http"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/kiosk-shop/kiosk/faasd/edge/internal/gateway"
	"github.com/kiosk-shop/kiosk/proto/pb"
)

// scripted is a function with one answer, which records what it was asked.
type scripted struct {
	Functions

	status int
	body   string
	asked  gateway.Request
}

func (s *scripted) Call(_ context.Context, r gateway.Request) *gateway.Answer {
	s.asked = r
	return &gateway.Answer{Status: s.status, Header: http.Header{}, Body: []byte(s.body)}
}

// TestAccounts calls every RPC that the older clients do not know.
func TestAccounts(t *testing.T) {
	const one = "0123456789abcdef01234567"
	account := `{"id":"` + one + `","username":"ann","email":"ann@x.example","email_verified":true,"pending_email":"ann@y.example","name":"Ann","role":"user","created_at":"2026-01-01T00:00:00Z"}`
	message := `{"id":"` + one + `","username":"ann","email":"ann@x.example","emailVerified":true,"pendingEmail":"ann@y.example","name":"Ann","role":"user"}`
	name := "Ann"
	for _, test := range []struct {
		name        string
		call        func(context.Context, users) (proto.Message, error)
		status      int
		answer      string
		asked, body string
		want        string
	}{
		{"account", func(ctx context.Context, s users) (proto.Message, error) {
			return s.GetAccount(ctx, &pb.UserID{Id: "me"})
		},
			200, account, "GET users/me", "", message},
		{"update", func(ctx context.Context, s users) (proto.Message, error) {
			return s.UpdateUserProfile(ctx, &pb.UpdateUserProfileRequest{Id: one, Name: &name, CurrentPassword: "pw"})
		}, 200, account, "PATCH users/" + one, `{"name":"Ann","current_password":"pw"}`, message},
		{"forgot", func(ctx context.Context, s users) (proto.Message, error) {
			return s.ForgotPassword(ctx, &pb.ForgotPasswordRequest{Email: "ann@x.example"})
		}, 202, `{"message":"perhaps"}`, "POST authenticate/forgot", `{"email":"ann@x.example"}`, `{"message":"perhaps"}`},
		{"reset", func(ctx context.Context, s users) (proto.Message, error) {
			return s.ResetPassword(ctx, &pb.ResetPasswordRequest{Token: "t", Password: "pw"})
		}, 204, "", "POST authenticate/reset", `{"token":"t","password":"pw"}`, `{"message":"the password is changed"}`},
		{"verify", func(ctx context.Context, s users) (proto.Message, error) {
			return s.VerifyEmail(ctx, &pb.VerifyEmailRequest{Token: "t"})
		}, 204, "", "POST authenticate/verify", `{"token":"t"}`, `{"message":"the address is verified"}`},
		{"verification", func(ctx context.Context, s users) (proto.Message, error) {
			return s.RequestVerification(ctx, &pb.OwnAccount{})
		}, 202, `{"message":"on its way"}`, "POST users/me/verification", "", `{"message":"on its way"}`},
		{"sessions", func(ctx context.Context, s users) (proto.Message, error) {
			return s.ListSessions(ctx, &pb.OwnAccount{})
		},
			200, `[{"id":"` + one + `","created_at":"2026-01-01T00:00:00Z","expires_at":"2026-02-01T00:00:00Z","current":true}]`, "GET users/me/sessions", "",
			`{"sessions":[{"id":"` + one + `","createdAt":"2026-01-01T00:00:00Z","expiresAt":"2026-02-01T00:00:00Z","current":true}]}`},
		{"end of a session", func(ctx context.Context, s users) (proto.Message, error) {
			return s.EndSession(ctx, &pb.EndSessionRequest{Id: one})
		}, 204, "", "DELETE users/me/sessions/" + one, "", `{"message":"the session has ended"}`},
		{"export", func(ctx context.Context, s users) (proto.Message, error) {
			return s.ExportAccount(ctx, &pb.OwnAccount{})
		},
			200, `{"format":"f"}`, "GET users/me/export", "", `{"json":"{\"format\":\"f\"}"}`},
		{"erase", func(ctx context.Context, s users) (proto.Message, error) {
			return s.EraseAccount(ctx, &pb.EraseAccountRequest{CurrentPassword: "pw"})
		}, 204, "", "POST users/me/erase", `{"current_password":"pw"}`, `{"message":"the account is erased"}`},
	} {
		t.Run(test.name, func(t *testing.T) {
			f := &scripted{status: test.status, body: test.answer}
			ctx := context.WithValue(t.Context(), callerKey{}, http.Header{})
			got, err := test.call(ctx, users{caller: caller{f}})
			if err != nil {
				t.Fatal(err)
			}
			want := got.ProtoReflect().New().Interface()
			if err := protojson.Unmarshal([]byte(test.want), want); err != nil {
				t.Fatal(err)
			}
			if !proto.Equal(got, want) {
				t.Errorf("answers %v, want %v", got, want)
			}
			if asked := f.asked.Method + " " + f.asked.Function; asked != test.asked || string(f.asked.Body) != test.body {
				t.Errorf("asks %s %s, want %s %s", asked, f.asked.Body, test.asked, test.body)
			}
			f.status, f.body = 422, `{"detail":"no","errors":[{"field":"token","message":"is not valid"}]}`
			if _, err := test.call(ctx, users{caller: caller{f}}); status.Code(err) != codes.InvalidArgument {
				t.Errorf("a refusal: got %v, want INVALID_ARGUMENT", err)
			}
		})
	}
	for _, id := range []string{"", "../me", "x"} {
		f := &scripted{status: 204}
		if _, err := (users{caller: caller{f}}).EndSession(t.Context(), &pb.EndSessionRequest{Id: id}); status.Code(err) != codes.NotFound || f.asked.Method != "" {
			t.Errorf("a session %q: got %v, want NOT_FOUND and no call", id, err)
		}
	}
}
