package mail

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"time"

	"go.opentelemetry.io/otel/trace"

	kiosk "github.com/kiosk-shop/kiosk/shared"
	"github.com/kiosk-shop/kiosk/shared/order"
	"github.com/kiosk-shop/kiosk/shared/outbox"
	"github.com/kiosk-shop/kiosk/shared/telemetry"
	"github.com/kiosk-shop/kiosk/shared/user"
)

// LetterStore keeps the letters until they are sent.
type LetterStore interface {
	// Claim takes those of the letters that nobody else is sending, for the
	// caller alone until its lease ends.
	Claim(ctx context.Context, ids []kiosk.ID, now, until time.Time) ([]outbox.Entry, error)
	// Done removes letters that were sent, or are not to be.
	Done(ctx context.Context, ids ...kiosk.ID) error
	// Postpone ends the claims of letters, and puts their next attempt off until at.
	Postpone(ctx context.Context, at time.Time, reason string, ids ...kiosk.ID) error
	// Fail marks a letter as failed for good.
	Fail(ctx context.Context, id kiosk.ID, reason string, at time.Time) error
}

// Users are the accounts that letters go to.
type Users interface {
	// ByIDs returns those that exist.
	ByIDs(ctx context.Context, ids []kiosk.ID) ([]user.User, error)
	// ByLogin finds by the user.Key of a user name or an e-mail address;
	// KindNotFound where there is none.
	ByLogin(ctx context.Context, key string) (user.User, error)
}

// Links makes the links of letters.
type Links interface {
	// Issue stores the link of a letter to the account recipient, and returns
	// its token; KindNotFound where the letter is not to be sent.
	Issue(ctx context.Context, letter kiosk.ID, l outbox.Letter, recipient kiosk.ID) (token string, err error)
}

// Orders are what the letters are about.
type Orders interface {
	// ByIDs returns those that exist.
	ByIDs(ctx context.Context, ids []kiosk.ID) ([]order.Order, error)
}

// Limit counts a letter to a recipient, identified by a digest, and
// returns KindTooMany with a RetryAfter where there were too many.
type Limit func(ctx context.Context, recipient string) error

// LetterSender writes and sends the letters of the outbox.
type LetterSender struct {
	Shop       string
	PublicURL  string // where customers find the shop, without a slash at the end
	Links      Links
	Templates  *Templates
	Store      LetterStore
	Users      Users
	Orders     Orders
	Transport  Transport
	Verified   Limit // of letters to a verified address
	Unverified Limit // of letters to an address that nobody has verified
	Now        func() time.Time
}

// Function is the function that sends mails and letters.
const Function = "send-email"

// QueuedHeader says when an asynchronous invocation of Function was queued, in
// milliseconds of Unix's clock.
const QueuedHeader = "Kiosk-Queued-At"

// MaxLetters is how many letters Send takes at once.
const MaxLetters = 64

// Send sends letters of the outbox, each of them once: one that is sent, or
// that somebody else is sending, is left out. What the mail server does not take
// now is tried again later. A letter to an account that is gone, or whose link
// was used already, is dropped.
func (l *LetterSender) Send(ctx context.Context, actor kiosk.Actor, ids []kiosk.ID) error {
	if actor.Role != kiosk.RoleService {
		return kiosk.Forbidden("only the shop's own programs may send letters")
	}
	var v kiosk.Violations
	v.Require(len(ids) >= 1 && len(ids) <= MaxLetters, "letters", fmt.Sprintf("must be 1 to %d identifiers", MaxLetters))
	for i, id := range ids {
		v.Require(id.Valid(), fmt.Sprintf("letters[%d]", i), "is not an identifier")
	}
	if err := v.Err(); err != nil {
		return err
	}
	now := l.Now()
	claimed, err := l.Store.Claim(ctx, ids, now, now.Add(lease))
	if err != nil || len(claimed) == 0 {
		return err
	}
	// From here on the outcome is noted even if the caller hangs up.
	ctx = context.WithoutCancel(ctx)
	letters, err := l.write(ctx, claimed)
	if err != nil {
		postponeErr := l.postpone(ctx, claimed, err.Error())
		return errors.Join(err, postponeErr)
	}
	messages := make([]Message, len(letters))
	traced, spans := make([]context.Context, len(letters)), make([]trace.Span, len(letters))
	for i, letter := range letters {
		traced[i], spans[i] = sending(ctx, letter.Entry)
		messages[i] = letter.message
		messages[i].Span = spans[i].SpanContext()
	}
	sendCtx, cancel := context.WithTimeout(ctx, lease/2)
	errs := l.Transport.Send(sendCtx, messages...)
	cancel()
	storeCtx, cancel := context.WithTimeout(ctx, lease/4)
	defer cancel()
	var sent []kiosk.ID
	var postponed []outbox.Entry
	var reason string
	var storeErrs []error
	for i, letter := range letters {
		attributes := []any{"letter", letter.ID, "template", letter.Mail.Template, "order_id", letter.Mail.OrderID, "user_id", letter.Mail.UserID}
		switch err := errs[i]; {
		case err == nil:
			sent = append(sent, letter.ID)
			ended(letter.Entry, "sent")
			arrived(traced[i], letter.Entry, letter.placed, l.Now())
			slog.InfoContext(traced[i], "letter sent", attributes...)
		case errors.Is(err, ErrRefused):
			ended(letter.Entry, "refused")
			slog.ErrorContext(traced[i], "letter refused permanently by the mail server", append(attributes, "error", err)...)
			if err := l.Store.Fail(storeCtx, letter.ID, withoutAddress(err, letter.message.To), l.Now()); err != nil {
				storeErrs = append(storeErrs, err)
			}
		default:
			ended(letter.Entry, "postponed")
			postponed, reason = append(postponed, letter.Entry), withoutAddress(err, letter.message.To)
		}
		telemetry.End(spans[i], errs[i])
	}
	if len(sent) > 0 {
		if err := l.Store.Done(storeCtx, sent...); err != nil {
			storeErrs = append(storeErrs, err)
		}
	}
	if len(postponed) > 0 {
		slog.Warn("letters not accepted by the mail server, will retry", "letters", len(postponed), "first", postponed[0].ID, "error", reason)
		if err := l.postpone(storeCtx, postponed, reason); err != nil {
			storeErrs = append(storeErrs, err)
		}
	}
	return errors.Join(storeErrs...)
}

// postpone leaves the letters to the relay's next attempts. It tries all of them,
// and returns the errors of those that it could not store.
func (l *LetterSender) postpone(ctx context.Context, letters []outbox.Entry, reason string) error {
	var errs []error
	byAttempts := map[int][]kiosk.ID{}
	for _, e := range letters {
		byAttempts[e.Attempts] = append(byAttempts[e.Attempts], e.ID)
	}
	for attempts, ids := range byAttempts {
		errs = append(errs, l.Store.Postpone(ctx, l.Now().Add(outbox.Pause(attempts)), reason, ids...))
	}
	return errors.Join(errs...)
}

// written is a letter whose message is ready to be sent.
type written struct {
	outbox.Entry
	message Message
	placed  time.Time // when its order was placed; zero: it is about no order
}

// write returns the letters that are to be sent now, with their messages. Those to
// nobody are dropped, and those that are too many for their recipient postponed.
func (l *LetterSender) write(ctx context.Context, claimed []outbox.Entry) (letters []written, err error) {
	users, orders, err := l.subjects(ctx, claimed)
	if err != nil {
		return nil, err
	}
	var gone []kiosk.ID
	for _, e := range claimed {
		u, exists := users[recipient{e.Mail.UserID, user.Key(e.Mail.To)}]
		o, ordered := orders[e.Mail.OrderID]
		if !exists || e.Mail.OrderID != "" && !ordered {
			gone = append(gone, e.ID)
			ended(e, "dropped")
			continue
		}
		to := e.Mail.To
		if to == "" || user.Key(to) == user.Key(u.Email) {
			to = u.Email // as its owner writes it
		}
		verified := u.EmailVerified && to == u.Email
		limit := l.Unverified
		if verified {
			limit = l.Verified
		}
		var tooMany *kiosk.Error
		if err := limit(ctx, user.AddressDigest(to)); errors.As(err, &tooMany) {
			ended(e, "limited")
			slog.WarnContext(kiosk.WithTrace(telemetry.Follow(ctx, e.Trace), e.Trace), "letter postponed: too many to one recipient", "letter", e.ID, "template", e.Mail.Template, "user_id", u.ID, "retry_after", tooMany.RetryAfter.String())
			if err := l.Store.Postpone(ctx, l.Now().Add(tooMany.RetryAfter), "too many letters to one recipient", e.ID); err != nil {
				return nil, err
			}
			continue
		}
		data := l.data(u, o, verified)
		if e.Mail.Seed != nil {
			token, err := l.Links.Issue(ctx, e.ID, *e.Mail, u.ID)
			if kiosk.IsKind(err, kiosk.KindNotFound) {
				gone = append(gone, e.ID)
				ended(e, "dropped")
				continue
			}
			if err != nil {
				return nil, err
			}
			data.Link = l.PublicURL + "/#" + fragments[e.Mail.Template] + "=" + token
		}
		m, err := l.Templates.render(e.Mail.Template, data)
		if err != nil {
			return nil, err
		}
		m.To, m.ID = to, digest(string(e.ID))
		letters = append(letters, written{e, m, o.CreatedAt})
	}
	if len(gone) > 0 {
		err = l.Store.Done(ctx, gone...)
	}
	return letters, err
}

// digest returns a short identifier that does not show text.
func digest(text string) string {
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:16])
}

// fragments say what the link of a letter is for. A fragment stays in the
// browser: it reaches no server and no log.
var fragments = map[string]string{user.Welcome: "verify", user.VerifyEmail: "verify", user.ResetPassword: "reset"}

// recipient is who a letter goes to: an account, or the account with an
// address.
type recipient struct {
	id      kiosk.ID
	address string // user.Key
}

// subjects returns the accounts and the orders that letters are about, those that
// exist.
func (l *LetterSender) subjects(ctx context.Context, letters []outbox.Entry) (map[recipient]user.User, map[kiosk.ID]order.Order, error) {
	byID, orders := map[kiosk.ID]user.User{}, map[kiosk.ID]order.Order{}
	for _, e := range letters {
		if e.Mail.UserID != "" {
			byID[e.Mail.UserID] = user.User{}
		}
		if e.Mail.OrderID != "" {
			orders[e.Mail.OrderID] = order.Order{}
		}
	}
	if len(byID) > 0 {
		found, err := l.Users.ByIDs(ctx, slices.Collect(maps.Keys(byID)))
		if err != nil {
			return nil, nil, err
		}
		clear(byID)
		for _, u := range found {
			byID[u.ID] = u
		}
	}
	users := map[recipient]user.User{}
	for _, e := range letters {
		to := recipient{e.Mail.UserID, user.Key(e.Mail.To)}
		u, exists := byID[to.id]
		if to.id == "" {
			var err error
			u, err = l.Users.ByLogin(ctx, to.address)
			if err != nil && !kiosk.IsKind(err, kiosk.KindNotFound) {
				return nil, nil, err
			}
			exists = err == nil && user.Key(u.Email) == to.address // a user name is no address
		}
		if exists {
			users[to] = u
		}
	}
	if len(orders) == 0 {
		return users, orders, nil
	}
	foundOrders, err := l.Orders.ByIDs(ctx, slices.Collect(maps.Keys(orders)))
	clear(orders)
	for _, o := range foundOrders {
		orders[o.ID] = o
	}
	return users, orders, err
}

// data returns what a template sees. A letter to an address that nobody has
// verified holds nothing that a stranger may have written, the name they gave;
// and no letter holds a customer's own reason.
func (l *LetterSender) data(u user.User, o order.Order, verified bool) templateData {
	v := templateData{Shop: l.Shop}
	if verified {
		v.Name = oneLine(u.Name)
	}
	if o.ID != "" {
		v.Order = orderView(o)
		if last := o.History[len(o.History)-1]; last.By == o.UserID {
			v.Order.Reason = ""
		}
	}
	return v
}
