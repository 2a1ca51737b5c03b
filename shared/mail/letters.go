package mail

import (
	"bytes"
	"context"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"errors"
	"fmt"
	htmltemplate "html/template"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"slices"
	"strings"
	texttemplate "text/template"
	"time"
	"unicode"

	"go.opentelemetry.io/otel/trace"

	kiosk "github.com/kiosk-shop/kiosk/shared"
	"github.com/kiosk-shop/kiosk/shared/order"
	"github.com/kiosk-shop/kiosk/shared/outbox"
	"github.com/kiosk-shop/kiosk/shared/telemetry"
	"github.com/kiosk-shop/kiosk/shared/user"
)

//go:embed templates
var builtin embed.FS

// names are the letters that the shop sends; each has a NAME.html and a
// NAME.txt, which also defines the subject.
var names = []string{
	user.Welcome, user.VerifyEmail, user.ResetPassword, user.PasswordChanged, user.EmailChanging, user.EmailChanged,
	order.Confirmation, order.Apology, order.Completion, order.Cancellation,
}

// Templates are the shop's letters.
type Templates struct {
	html map[string]*htmltemplate.Template
	text map[string]*texttemplate.Template
}

// LoadTemplates reads the built-in letters; a file of the same name in folder
// takes the place of one. An empty folder name means the built-in ones alone.
func LoadTemplates(folder string) (*Templates, error) {
	t := &Templates{html: map[string]*htmltemplate.Template{}, text: map[string]*texttemplate.Template{}}
	layout, err := source(folder, "layout.html")
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		html, err1 := source(folder, name+".html")
		text, err2 := source(folder, name+".txt")
		if err := errors.Join(err1, err2); err != nil {
			return nil, err
		}
		if t.html[name], err = htmltemplate.New(name).Parse(layout + html); err != nil {
			return nil, fmt.Errorf("mail template: %w", err)
		}
		if t.text[name], err = texttemplate.New(name).Parse(text); err != nil {
			return nil, fmt.Errorf("mail template: %w", err)
		}
		// A shopkeeper's mistake comes to light now, not with the first order.
		if _, err := t.render(name, letter{Shop: "Kiosk", Name: "Ada", Link: "https://shop.example/#verify=x", Order: orderView(order.Order{Lines: []order.Line{{}}})}); err != nil {
			return nil, err
		}
	}
	return t, nil
}

func source(folder, name string) (string, error) {
	if folder != "" {
		root, err := os.OpenRoot(folder)
		if err != nil {
			return "", fmt.Errorf("MAIL_TEMPLATES: %w", err)
		}
		defer root.Close()
		text, err := root.ReadFile(name)
		if err == nil || !errors.Is(err, fs.ErrNotExist) {
			return string(text), err
		}
	}
	text, err := builtin.ReadFile("templates/" + name)
	return string(text), err
}

// letter is what a template sees.
type letter struct {
	Shop    string
	Name    string // of a customer, if this goes to their verified address; else empty
	Link    string // URL; empty: none
	Subject string
	Order   view
}

type view struct {
	ID       kiosk.ID
	Lines    []lineView
	Total    kiosk.Money
	Currency string
	Reason   string
}

type lineView struct {
	Name     string
	Quantity int
	Sum      kiosk.Money
}

func orderView(o order.Order) view {
	v := view{ID: o.ID, Total: o.Total, Currency: o.Currency, Reason: o.Reason}
	for _, line := range o.Lines {
		v.Lines = append(v.Lines, lineView{line.Name, line.Quantity, line.UnitPrice * kiosk.Money(line.Quantity)})
	}
	return v
}

func (t *Templates) render(name string, l letter) (Message, error) {
	var subject, text, html bytes.Buffer
	err := t.text[name].ExecuteTemplate(&subject, "subject", l)
	if err == nil {
		l.Subject = oneLine(subject.String())
		err = errors.Join(t.text[name].Execute(&text, l), t.html[name].ExecuteTemplate(&html, "layout", l))
	}
	if err != nil {
		return Message{}, fmt.Errorf("mail template %s: %w", name, err)
	}
	return Message{Subject: l.Subject, HTML: html.String(), Text: text.String()}, nil
}

// oneLine keeps a subject what the mail function accepts as one.
func oneLine(s string) string {
	s = strings.Join(strings.FieldsFunc(s, func(c rune) bool { return unicode.IsSpace(c) || unicode.IsControl(c) }), " ")
	if r := []rune(s); len(r) > maxSubject {
		s = string(r[:maxSubject])
	}
	return s
}

// LetterStore keeps the letters until they are sent.
type LetterStore interface {
	// Claim takes those of the letters that nobody else is sending, for the
	// caller alone until its lease ends.
	Claim(ctx context.Context, ids []kiosk.ID, now, until time.Time) ([]outbox.Entry, error)
	// Done removes letters that were sent, or are not to be.
	Done(ctx context.Context, ids ...kiosk.ID) error
	// Postpone ends the claims of letters, and puts their next attempt off until at.
	Postpone(ctx context.Context, at time.Time, reason string, ids ...kiosk.ID) error
	// GiveUp ends a letter that can never be sent.
	GiveUp(ctx context.Context, id kiosk.ID, reason string, at time.Time) error
}

// Customers are who the letters go to.
type Customers interface {
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

// Limit counts a letter to a recipient, of whom it is given a digest, and
// returns KindTooMany with a RetryAfter where there were too many.
type Limit func(ctx context.Context, recipient string) error

// Letters writes and sends the shop's letters.
type Letters struct {
	Shop      string
	PublicURL string // where customers find the shop, without a slash at the end
	Links     Links
	Templates *Templates
	Store     LetterStore
	Customers Customers
	Orders    Orders
	Transport Transport
	Verified  Limit // of letters to a verified address
	Strangers Limit // of letters to an address that nobody has verified
	Now       func() time.Time
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
func (l *Letters) Send(ctx context.Context, actor kiosk.Actor, ids []kiosk.ID) error {
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
	sendable, messages, placed, err := l.write(ctx, claimed)
	if err != nil {
		return errors.Join(err, l.postpone(ctx, claimed, err.Error()))
	}
	traced, spans := make([]context.Context, len(sendable)), make([]trace.Span, len(sendable))
	for i, e := range sendable {
		traced[i], spans[i] = sending(ctx, e)
		messages[i].Span = spans[i].SpanContext()
	}
	sendCtx, cancel := context.WithTimeout(ctx, lease/2)
	errs := l.Transport.Send(sendCtx, messages...)
	cancel()
	noteCtx, cancel := context.WithTimeout(ctx, lease/4)
	defer cancel()
	var sent []kiosk.ID
	var failed []outbox.Entry
	var reason string
	for i, e := range sendable {
		switch {
		case errs[i] == nil:
			sent = append(sent, e.ID)
			ended(traced[i], e, "sent")
			arrived(traced[i], e, placed[i], l.Now())
			slog.InfoContext(traced[i], "letter sent", "letter", e.ID, "template", e.Letter.Template, "order_id", e.Letter.OrderID, "user_id", e.Letter.UserID)
		case errors.Is(errs[i], ErrRefused):
			ended(traced[i], e, "refused")
			slog.ErrorContext(traced[i], "letter refused for good by the mail server", "letter", e.ID, "template", e.Letter.Template, "order_id", e.Letter.OrderID, "error", errs[i])
			err = errors.Join(err, l.Store.GiveUp(noteCtx, e.ID, withoutAddress(errs[i], messages[i].To), l.Now()))
		default:
			ended(traced[i], e, "postponed")
			failed, reason = append(failed, e), withoutAddress(errs[i], messages[i].To)
		}
		telemetry.End(spans[i], errs[i])
	}
	if len(sent) > 0 {
		err = errors.Join(err, l.Store.Done(noteCtx, sent...))
	}
	if len(failed) > 0 {
		slog.Warn("letters not taken by the mail server, they are tried again", "letters", len(failed), "first", failed[0].ID, "error", reason)
		err = errors.Join(err, l.postpone(noteCtx, failed, reason))
	}
	return err
}

// postpone leaves the letters to the relay's next attempts.
func (l *Letters) postpone(ctx context.Context, letters []outbox.Entry, reason string) error {
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

// write makes the messages of letters, and returns the letters that they are.
// Those to nobody are dropped, and those that are too many for their recipient
// put off.
func (l *Letters) write(ctx context.Context, claimed []outbox.Entry) (letters []outbox.Entry, messages []Message, placed []time.Time, err error) {
	customers, orders, err := l.subjects(ctx, claimed)
	if err != nil {
		return nil, nil, nil, err
	}
	var gone []kiosk.ID
	for _, e := range claimed {
		u, exists := customers[recipient{e.Letter.UserID, user.Key(e.Letter.To)}]
		o, ordered := orders[e.Letter.OrderID]
		if !exists || e.Letter.OrderID != "" && !ordered {
			gone = append(gone, e.ID)
			ended(ctx, e, "dropped")
			continue
		}
		to := e.Letter.To
		if to == "" || user.Key(to) == user.Key(u.Email) {
			to = u.Email // as its owner writes it
		}
		verified := u.EmailVerified && to == u.Email
		limit := l.Strangers
		if verified {
			limit = l.Verified
		}
		var tooMany *kiosk.Error
		if err := limit(ctx, user.AddressDigest(to)); errors.As(err, &tooMany) {
			ended(ctx, e, "limited")
			slog.WarnContext(kiosk.WithTrace(telemetry.Follow(ctx, e.Trace), e.Trace), "letter put off: too many to one recipient", "letter", e.ID, "template", e.Letter.Template, "user_id", u.ID, "retry_after", tooMany.RetryAfter.String())
			if err := l.Store.Postpone(ctx, l.Now().Add(tooMany.RetryAfter), "too many letters to one recipient", e.ID); err != nil {
				return nil, nil, nil, err
			}
			continue
		}
		about := l.about(u, o, verified)
		if e.Letter.Seed != nil {
			token, err := l.Links.Issue(ctx, e.ID, *e.Letter, u.ID)
			if kiosk.KindNotFound.Is(err) {
				gone = append(gone, e.ID)
				ended(ctx, e, "dropped")
				continue
			}
			if err != nil {
				return nil, nil, nil, err
			}
			about.Link = l.PublicURL + "/#" + fragments[e.Letter.Template] + "=" + token
		}
		m, err := l.Templates.render(e.Letter.Template, about)
		if err != nil {
			return nil, nil, nil, err
		}
		m.To, m.ID = to, digest(string(e.ID))
		letters, messages, placed = append(letters, e), append(messages, m), append(placed, o.CreatedAt)
	}
	if len(gone) > 0 {
		err = l.Store.Done(ctx, gone...)
	}
	return letters, messages, placed, err
}

// digest is a short name for something whose own is not to be seen.
func digest(text string) string {
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:16])
}

// fragments say what the link of a letter is for. A fragment stays in the
// browser: it reaches no server and no log.
var fragments = map[string]string{user.Welcome: "verify", user.VerifyEmail: "verify", user.ResetPassword: "reset"}

// recipient is who a letter goes to: an account, or whoever has that of an
// address.
type recipient struct {
	id      kiosk.ID
	address string // user.Key
}

// subjects reads what the letters are about.
func (l *Letters) subjects(ctx context.Context, letters []outbox.Entry) (map[recipient]user.User, map[kiosk.ID]order.Order, error) {
	byID, orders := map[kiosk.ID]user.User{}, map[kiosk.ID]order.Order{}
	for _, e := range letters {
		if e.Letter.UserID != "" {
			byID[e.Letter.UserID] = user.User{}
		}
		if e.Letter.OrderID != "" {
			orders[e.Letter.OrderID] = order.Order{}
		}
	}
	if len(byID) > 0 {
		found, err := l.Customers.ByIDs(ctx, slices.Collect(maps.Keys(byID)))
		if err != nil {
			return nil, nil, err
		}
		clear(byID)
		for _, u := range found {
			byID[u.ID] = u
		}
	}
	customers := map[recipient]user.User{}
	for _, e := range letters {
		to := recipient{e.Letter.UserID, user.Key(e.Letter.To)}
		u, exists := byID[to.id]
		if to.id == "" {
			var err error
			u, err = l.Customers.ByLogin(ctx, to.address)
			if err != nil && !kiosk.KindNotFound.Is(err) {
				return nil, nil, err
			}
			exists = err == nil && user.Key(u.Email) == to.address // a user name is no address
		}
		if exists {
			customers[to] = u
		}
	}
	if len(orders) == 0 {
		return customers, orders, nil
	}
	foundOrders, err := l.Orders.ByIDs(ctx, slices.Collect(maps.Keys(orders)))
	clear(orders)
	for _, o := range foundOrders {
		orders[o.ID] = o
	}
	return customers, orders, err
}

// about is what a template sees. A letter to an address that nobody has
// verified holds nothing that a stranger may have written, the name they gave;
// and no letter holds a customer's own reason.
func (l *Letters) about(u user.User, o order.Order, verified bool) letter {
	v := letter{Shop: l.Shop}
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
