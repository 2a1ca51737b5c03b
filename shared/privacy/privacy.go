// Package privacy exports and erases what the shop keeps about a person.
package privacy

import (
	"context"
	"time"

	kiosk "github.com/kiosk-shop/kiosk/shared"
	"github.com/kiosk-shop/kiosk/shared/order"
	"github.com/kiosk-shop/kiosk/shared/outbox"
	"github.com/kiosk-shop/kiosk/shared/user"
)

// Users are the accounts.
type Users interface {
	ByID(ctx context.Context, id kiosk.ID) (user.User, error)
	// AnotherAdministrator returns an administrator that is not id;
	// KindNotFound where there is none.
	AnotherAdministrator(ctx context.Context, id kiosk.ID) (user.User, error)
	Update(ctx context.Context, u user.User) error
	Delete(ctx context.Context, u user.User) error
}

// Orders are what people have ordered.
type Orders interface {
	// Latest returns the newest orders of a user, at most limit.
	Latest(ctx context.Context, userID kiosk.ID, limit int) ([]order.Order, error)
	// Anonymise removes from a user's orders what they wrote (their reasons and
	// idempotency keys), and returns which orders had any.
	Anonymise(ctx context.Context, userID kiosk.ID) ([]kiosk.ID, error)
}

// Letters are what is still to be sent.
type Letters interface {
	// To returns the letters to a user or one of the addresses, at most limit.
	To(ctx context.Context, userID kiosk.ID, addresses []string, limit int) ([]outbox.Entry, error)
	// Forget removes them; an event beside a letter stays.
	Forget(ctx context.Context, userID kiosk.ID, addresses []string) error
}

// Mails are the records of mails that were sent under an idempotency key.
type Mails interface {
	// Forget removes those of the mails that an actor sent.
	Forget(ctx context.Context, actor kiosk.ID) error
}

// Counters are the short-lived records of an account, which count its logins and
// requests.
type Counters interface {
	// Addresses returns the network addresses that account has logged in from.
	Addresses(ctx context.Context, account kiosk.ID) []string
	// Forget removes all that is kept under a name that contains one of names.
	Forget(ctx context.Context, names ...string)
}

// Cache drops copies.
type Cache interface {
	Drop(ctx context.Context, ids ...kiosk.ID)
}

// Privacy exports and erases accounts.
type Privacy struct {
	Users        Users
	Orders       Orders
	Letters      Letters
	Mails        Mails
	Counters     Counters
	Prover       user.Prover
	ProfileCache Cache
	SessionCache Cache
	OrderCache   Cache
	Transact     kiosk.Transact
	Now          func() time.Time
}

// Format names the form of an Export; it changes when the form does.
const Format = "kiosk.account-export.v1"

// Bounds of an export, which is one body of 8 MiB at most: who has more orders
// lists the older ones with GET /api/orders.
const (
	maxOrders  = 1000
	maxLines   = 20_000
	maxLetters = 100
)

// Export is all that the shop keeps about a person, but for the hashes of
// secrets.
type Export struct {
	Format         string       `json:"format"`
	ExportedAt     time.Time    `json:"exported_at"`
	Profile        user.Profile `json:"profile"`
	UpdatedAt      time.Time    `json:"updated_at"`
	Sessions       []Session    `json:"sessions"`
	Links          []Link       `json:"links"`
	Orders         []Order      `json:"orders"`          // the newest first
	OrdersComplete bool         `json:"orders_complete"` // else there are older ones
	Letters        []Letter     `json:"letters"`
	LoginAddresses []string     `json:"login_addresses"`
}

// Session is a login that has not ended.
type Session struct {
	ID        kiosk.ID  `json:"id"`
	CreatedAt time.Time `json:"created_at"`
	ExpiresAt time.Time `json:"expires_at"`
}

// Link is a link that was sent and not used.
type Link struct {
	Purpose   user.Purpose `json:"purpose"`
	Address   string       `json:"address"`
	ExpiresAt time.Time    `json:"expires_at"`
}

// Order is an order as its customer sees it, with the key it was placed under.
type Order struct {
	ID             kiosk.ID     `json:"id"`
	Items          []Item       `json:"items"`
	Total          kiosk.Money  `json:"total"`
	Currency       string       `json:"currency"`
	Status         order.Status `json:"status"`
	Stock          order.Stock  `json:"stock"`
	Reason         string       `json:"reason,omitempty"`
	IdempotencyKey string       `json:"idempotency_key,omitempty"`
	Tracestate     string       `json:"tracestate,omitempty"` // that the order was placed with
	CreatedAt      time.Time    `json:"created_at"`
	UpdatedAt      time.Time    `json:"updated_at"`
}

// Item is a line of an order.
type Item struct {
	ProductID kiosk.ID    `json:"product_id"`
	Name      string      `json:"name"`
	Quantity  int         `json:"quantity"`
	UnitPrice kiosk.Money `json:"unit_price"`
}

// Letter is one that is still to be sent.
type Letter struct {
	Template  string    `json:"template"`
	OrderID   kiosk.ID  `json:"order_id,omitempty"`
	CreatedAt time.Time `json:"created_at"`
}

// errAccount hides whether there is an account.
var errAccount = kiosk.NotFound("there is no such user")

func addresses(u user.User) []string {
	if u.PendingEmail != "" {
		return []string{u.Email, u.PendingEmail}
	}
	return []string{u.Email}
}

// Export returns what the shop keeps about the actor.
func (p *Privacy) Export(ctx context.Context, actor kiosk.Actor) (Export, error) {
	u, err := p.Users.ByID(ctx, actor.ID)
	if kiosk.IsKind(err, kiosk.KindNotFound) {
		return Export{}, errAccount
	}
	if err != nil {
		return Export{}, err
	}
	orders, err := p.Orders.Latest(ctx, u.ID, maxOrders+1)
	if err != nil {
		return Export{}, err
	}
	letters, err := p.Letters.To(ctx, u.ID, addresses(u), maxLetters)
	if err != nil {
		return Export{}, err
	}
	e := Export{
		Format: Format, ExportedAt: p.Now(), Profile: u.Profile(), UpdatedAt: u.UpdatedAt,
		Sessions: []Session{}, Links: []Link{}, Orders: []Order{}, OrdersComplete: true, Letters: []Letter{},
		LoginAddresses: p.Counters.Addresses(ctx, u.ID),
	}
	for _, s := range u.Sessions {
		e.Sessions = append(e.Sessions, Session{s.ID, s.CreatedAt, s.ExpiresAt})
	}
	for _, l := range u.Links {
		e.Links = append(e.Links, Link{l.Purpose, l.Address, l.ExpiresAt})
	}
	for _, l := range letters {
		e.Letters = append(e.Letters, Letter{l.Mail.Template, l.Mail.OrderID, l.CreatedAt})
	}
	lines := 0
	for _, o := range orders {
		if lines += len(o.Lines); lines > maxLines || len(e.Orders) == maxOrders {
			e.OrdersComplete = false
			break
		}
		e.Orders = append(e.Orders, export(o))
	}
	return e, nil
}

func export(o order.Order) Order {
	out := Order{
		ID: o.ID, Items: make([]Item, len(o.Lines)), Total: o.Total, Currency: o.Currency, Status: o.Status, Stock: o.Stock,
		Reason: o.Reason, IdempotencyKey: o.OwnKey(), Tracestate: o.Trace.State, CreatedAt: o.CreatedAt, UpdatedAt: o.UpdatedAt,
	}
	for i, l := range o.Lines {
		out.Items[i] = Item(l)
	}
	return out
}

// Erase removes the actor's account and all that names the person, if password
// is theirs. Their orders stay, because the shop has to account for them, with
// an identifier that belongs to nobody any more: what they wrote there goes.
// The database forgets in one transaction; a wrong password is KindInvalid, and
// the only administrator is KindConflict.
func (p *Privacy) Erase(ctx context.Context, actor kiosk.Actor, password, client string) error {
	if password == "" {
		return kiosk.Invalid("current_password", "is required")
	}
	checked, err := p.Users.ByID(ctx, actor.ID)
	if kiosk.IsKind(err, kiosk.KindNotFound) {
		return errAccount
	}
	if err != nil {
		return err
	}
	if err := p.Prover.Prove(ctx, checked, password, client); err != nil {
		return err
	}
	var u user.User
	var orders []kiosk.ID
	err = p.Transact(ctx, func(ctx context.Context) (err error) {
		if u, err = p.Users.ByID(ctx, actor.ID); kiosk.IsKind(err, kiosk.KindNotFound) {
			return errAccount
		}
		if err != nil {
			return err
		}
		if u.PasswordHash != checked.PasswordHash {
			return kiosk.Conflict("the password was changed by another request at the same time: try again")
		}
		if u.Role == kiosk.RoleAdmin {
			if err := p.leaveAnother(ctx, u.ID); err != nil {
				return err
			}
		}
		if err := p.Users.Delete(ctx, u); err != nil {
			return err
		}
		if orders, err = p.Orders.Anonymise(ctx, u.ID); err != nil {
			return err
		}
		if err := p.Letters.Forget(ctx, u.ID, addresses(u)); err != nil {
			return err
		}
		return p.Mails.Forget(ctx, u.ID)
	})
	if kiosk.IsKind(err, kiosk.KindConflict) || kiosk.IsKind(err, kiosk.KindNotFound) {
		return err
	}
	// Whatever the outcome: the commit may have succeeded although its answer was lost.
	after := context.WithoutCancel(ctx)
	sessions := make([]kiosk.ID, len(u.Sessions))
	for i, s := range u.Sessions {
		sessions[i] = s.ID
	}
	p.SessionCache.Drop(after, sessions...)
	p.ProfileCache.Drop(after, actor.ID)
	p.OrderCache.Drop(after, orders...)
	if err == nil {
		names := []string{string(u.ID)}
		for _, a := range addresses(u) {
			names = append(names, user.AddressDigest(a))
		}
		p.Counters.Forget(after, names...)
	}
	return err
}

// leaveAnother makes sure that the shop keeps an administrator. It writes the
// other one, so that two who leave at once do not rely on each other.
func (p *Privacy) leaveAnother(ctx context.Context, id kiosk.ID) error {
	other, err := p.Users.AnotherAdministrator(ctx, id)
	if kiosk.IsKind(err, kiosk.KindNotFound) {
		return kiosk.Conflict("this is the shop's only administrator: it would have none; make another account an administrator first")
	}
	if err != nil {
		return err
	}
	return p.Users.Update(ctx, other)
}
