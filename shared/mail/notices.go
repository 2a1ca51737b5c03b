package mail

import (
	"bytes"
	"context"
	"embed"
	"errors"
	"fmt"
	htmltemplate "html/template"
	"io/fs"
	"os"
	"strings"
	texttemplate "text/template"
	"unicode"

	kiosk "github.com/kiosk-shop/kiosk/shared"
	"github.com/kiosk-shop/kiosk/shared/order"
	"github.com/kiosk-shop/kiosk/shared/user"
)

//go:embed templates
var builtin embed.FS

// The occasions on which the shop writes; each has a NAME.html and a NAME.txt,
// which also defines the subject.
const (
	welcome      = "welcome"
	confirmation = "confirmation"
	apology      = "apology"
	completion   = "completion"
	cancellation = "cancellation"
)

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
	for _, name := range []string{welcome, confirmation, apology, completion, cancellation} {
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
		if _, err := t.render(name, letter{Shop: "Kiosk", Name: "Ada", Order: orderView(order.Order{Lines: []order.Line{{}}})}); err != nil {
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
	Name    string // of the customer; may be empty
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

// Outbox stores a call of a function, in the caller's transaction.
type Outbox interface {
	Invoke(ctx context.Context, function string, payload any) error
}

// Customers tells who gets a letter.
type Customers interface {
	ByID(ctx context.Context, id kiosk.ID) (user.User, error)
}

// Function is the function that sends mails.
const Function = "send-email"

// Request is the body of a call to it.
type Request struct {
	To      string `json:"to_email"`
	Subject string `json:"subject"`
	HTML    string `json:"html_body"`
	Text    string `json:"text_body,omitempty"`
}

// Notices writes the shop's letters and leaves them in the outbox.
type Notices struct {
	Shop      string
	Templates *Templates
	Customers Customers
	Outbox    Outbox
}

// Welcome greets a new customer.
func (n *Notices) Welcome(ctx context.Context, u user.User) error {
	return n.write(ctx, welcome, u, view{})
}

// Confirmation says that an order's stock is taken.
func (n *Notices) Confirmation(ctx context.Context, o order.Order) error {
	return n.aboutOrder(ctx, confirmation, o)
}

// Apology says that an order's stock was short.
func (n *Notices) Apology(ctx context.Context, o order.Order) error {
	return n.aboutOrder(ctx, apology, o)
}

// Completion says that an order was handed over.
func (n *Notices) Completion(ctx context.Context, o order.Order) error {
	return n.aboutOrder(ctx, completion, o)
}

// Cancellation says that an order was cancelled.
func (n *Notices) Cancellation(ctx context.Context, o order.Order) error {
	return n.aboutOrder(ctx, cancellation, o)
}

func (n *Notices) aboutOrder(ctx context.Context, name string, o order.Order) error {
	u, err := n.Customers.ByID(ctx, o.UserID)
	if kiosk.KindNotFound.Is(err) {
		return nil // nobody to write to
	}
	if err != nil {
		return err
	}
	return n.write(ctx, name, u, orderView(o))
}

func (n *Notices) write(ctx context.Context, name string, u user.User, o view) error {
	m, err := n.Templates.render(name, letter{Shop: n.Shop, Name: oneLine(u.Name), Order: o})
	if err != nil {
		return err
	}
	return n.Outbox.Invoke(ctx, Function, Request{To: u.Email, Subject: m.Subject, HTML: m.HTML, Text: m.Text})
}
