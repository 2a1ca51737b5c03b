package mail

import (
	"bytes"
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
		html, err := source(folder, name+".html")
		if err != nil {
			return nil, err
		}
		text, err := source(folder, name+".txt")
		if err != nil {
			return nil, err
		}
		if t.html[name], err = htmltemplate.New(name).Parse(layout + html); err != nil {
			return nil, fmt.Errorf("mail template: %w", err)
		}
		if t.text[name], err = texttemplate.New(name).Parse(text); err != nil {
			return nil, fmt.Errorf("mail template: %w", err)
		}
		// A mistake in a template shows now, not with the first order.
		if _, err := t.render(name, templateData{Shop: "Kiosk", Name: "Ada", Link: "https://shop.example/#verify=x", Order: orderView(order.Order{Lines: []order.Line{{}}})}); err != nil {
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

// templateData is what a template sees.
type templateData struct {
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

// render returns the message that the template makes of data, without its
// recipient. It fails where the template cannot be executed.
func (t *Templates) render(name string, data templateData) (Message, error) {
	var subject, text, html bytes.Buffer
	failed := func(err error) (Message, error) {
		return Message{}, fmt.Errorf("mail template %s: %w", name, err)
	}
	if err := t.text[name].ExecuteTemplate(&subject, "subject", data); err != nil {
		return failed(err)
	}
	data.Subject = oneLine(subject.String())
	if err := t.text[name].Execute(&text, data); err != nil {
		return failed(err)
	}
	if err := t.html[name].ExecuteTemplate(&html, "layout", data); err != nil {
		return failed(err)
	}
	return Message{Subject: data.Subject, HTML: html.String(), Text: text.String()}, nil
}

// oneLine keeps a subject what the mail function accepts as one.
func oneLine(s string) string {
	s = strings.Join(strings.FieldsFunc(s, func(c rune) bool { return unicode.IsSpace(c) || unicode.IsControl(c) }), " ")
	if r := []rune(s); len(r) > maxSubject {
		s = string(r[:maxSubject])
	}
	return s
}
