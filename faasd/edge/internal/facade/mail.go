package facade

import (
	"context"

	"github.com/kiosk-shop/kiosk/proto/mailer"
)

type mail struct {
	mailer.UnimplementedMailerServiceServer
	caller
}

func (s mail) SendEmail(ctx context.Context, r *mailer.SendEmailRequest) (*mailer.SendEmailResponse, error) {
	var sent struct{ Status, Message string }
	header, err := s.do(ctx, call{method: "POST", function: "send-email", body: struct {
		ToEmail  string `json:"to_email"`
		Subject  string `json:"subject"`
		HTMLBody string `json:"html_body"`
	}{r.ToEmail, r.Subject, r.HtmlBody}}, &sent)
	if err != nil {
		return nil, err
	}
	setHeader(ctx, header, "Idempotent-Replayed")
	return &mailer.SendEmailResponse{Status: sent.Status, Message: sent.Message}, nil
}
