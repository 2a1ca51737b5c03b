// Package function sends mails: POST / is POST /api/email. POST /letters sends
// letters of the outbox; the shop invokes it through OpenFaaS's queue.
package function

import (
	"context"
	"net/http"
	"strconv"
	"time"

	handler "github.com/openfaas/templates-sdk/go-http"

	kiosk "github.com/kiosk-shop/kiosk/shared"
	"github.com/kiosk-shop/kiosk/shared/mail"
	"github.com/kiosk-shop/kiosk/shared/rest"
	"github.com/kiosk-shop/kiosk/shared/shop"
	"github.com/kiosk-shop/kiosk/shared/telemetry"
)

// New wires the function.
func New(context.Context) (handler.FunctionHandler, error) {
	s := shop.Open("send-email")
	sender, letters, admission := s.Sender(), s.LetterSender(), s.Admission()
	return s.Function(func(f *rest.Function) {
		f.Route("POST /{$}", admission.Admit(send(sender)))
		f.Route("POST /letters", admission.Admit(sendLetters(letters)))
	})
}

func send(sender *mail.Sender) rest.ActorHandler {
	return func(r *http.Request, actor kiosk.Actor) (rest.Response, error) {
		key, err := rest.IdempotencyKey(r)
		if err != nil {
			return rest.Response{}, err
		}
		var body mail.Request
		if err := rest.Decode(r, &body); err != nil {
			return rest.Response{}, err
		}
		result, err := sender.Send(r.Context(), actor, mail.Message{To: body.To, Subject: body.Subject, HTML: body.HTML, Text: body.Text}, key)
		if err != nil {
			return rest.Response{}, err
		}
		header := http.Header{}
		if result.Replayed {
			header.Set(rest.ReplayedHeader, "true")
		}
		return rest.Response{Status: http.StatusOK, Header: header, Body: map[string]string{
			"status": string(mail.Sent), "message": "the mail server has accepted the mail",
		}}, nil
	}
}

var delays = telemetry.NewHistogram("kiosk.queue.delay", "how long asynchronous invocations lay in OpenFaaS's queue", telemetry.Long)

func sendLetters(letters *mail.LetterSender) rest.ActorHandler {
	return func(r *http.Request, actor kiosk.Actor) (rest.Response, error) {
		if queued, err := strconv.ParseInt(r.Header.Get(mail.QueuedHeader), 10, 64); err == nil {
			delays.Record(r.Context(), max(time.Since(time.UnixMilli(queued)), 0), nil)
		}
		var body struct {
			Letters []kiosk.ID `json:"letters"`
		}
		if err := rest.Decode(r, &body); err != nil {
			return rest.Response{}, err
		}
		return rest.Response{Status: http.StatusNoContent}, letters.Send(r.Context(), actor, body.Letters)
	}
}
