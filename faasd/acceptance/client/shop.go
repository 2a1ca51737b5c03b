package client

import (
	"regexp"
	"time"
)

// The bodies of requests and answers.

// NewAccount is the body of POST /api/users/register.
type NewAccount struct {
	Username string `json:"username,omitempty"`
	Email    string `json:"email"`
	Password string `json:"password"`
	Name     string `json:"name,omitempty"`
}

// Login is the body of POST /api/users/authenticate; Username may be an e-mail
// address.
type Login struct {
	Username string `json:"username"`
	Password string `json:"password"`
}

// Grant answers a login and a refresh.
type Grant struct {
	Token        string `json:"token"`
	Message      string `json:"message"`
	TokenType    string `json:"token_type"`
	ExpiresIn    int    `json:"expires_in"` // seconds
	RefreshToken string `json:"refresh_token"`
}

// Refresh is the body of POST /api/users/refresh.
type Refresh struct {
	RefreshToken string `json:"refresh_token"`
}

// Account is a user's profile.
type Account struct {
	ID        string    `json:"id"`
	Username  string    `json:"username"`
	Email     string    `json:"email"`
	Verified  bool      `json:"email_verified"`
	Pending   string    `json:"pending_email"`
	Name      string    `json:"name"`
	Role      string    `json:"role"`
	CreatedAt time.Time `json:"created_at"`
}

// NewProduct is the body that creates or replaces a product.
type NewProduct struct {
	Name        string  `json:"name"`
	Description string  `json:"description,omitempty"`
	Category    string  `json:"category"`
	Stock       int     `json:"stock"`
	Price       float64 `json:"price"`
	SKU         string  `json:"sku,omitempty"`
	ImageURL    string  `json:"image_url,omitempty"`
}

// Product is a product of the catalogue.
type Product struct {
	ID          string    `json:"id"`
	Name        string    `json:"name"`
	Description string    `json:"description"`
	Category    string    `json:"category"`
	Stock       int       `json:"stock"`
	Price       float64   `json:"price"`
	Currency    string    `json:"currency"`
	CreatedAt   time.Time `json:"created_at"`
	UpdatedAt   time.Time `json:"updated_at"`
}

// NewOrder is the body of POST /api/orders.
type NewOrder struct {
	Items  []Item   `json:"items"`
	UserID string   `json:"user_id,omitempty"`
	Total  *float64 `json:"total,omitempty"`
}

// Item is a line of an order: as a client asks for it, with the product and
// quantity alone, and as the shop noted it.
type Item struct {
	ProductID string  `json:"product_id"`
	Quantity  int     `json:"quantity"`
	Name      string  `json:"name,omitempty"`
	UnitPrice float64 `json:"unit_price,omitempty"`
}

// Order is an order, and the answer to placing one.
type Order struct {
	ID        string    `json:"id"`
	UserID    string    `json:"user_id"`
	Message   string    `json:"message"`
	Items     []Item    `json:"items"`
	Total     float64   `json:"total"`
	Currency  string    `json:"currency"`
	Status    string    `json:"status"`
	Stock     string    `json:"stock"`
	Reason    string    `json:"reason"`
	History   []Change  `json:"history"`
	CreatedAt time.Time `json:"created_at"`
	UpdatedAt time.Time `json:"updated_at"`
}

// Change is an entry of an order's history.
type Change struct {
	At     time.Time `json:"at"`
	Status string    `json:"status"`
	Stock  string    `json:"stock"`
	By     string    `json:"by"`
}

// NewStatus is the body of PUT /api/orders/{id}/status.
type NewStatus struct {
	Status string `json:"status"`
	Reason string `json:"reason,omitempty"`
}

// The values of an order's status and stock.
const (
	Pending   = "PENDING" // both
	Completed = "COMPLETED"
	Cancelled = "CANCELLED"

	Taken    = "TAKEN"
	Short    = "SHORT"
	Returned = "RETURNED"
	None     = "NONE"
)

// OutOfStock is the reason of an order that was SHORT.
const OutOfStock = "out_of_stock"

// NewMail is the body of POST /api/email.
type NewMail struct {
	ToEmail  string `json:"to_email"`
	Subject  string `json:"subject"`
	HTMLBody string `json:"html_body"`
}

// Mail is a mail in the sink.
type Mail struct {
	ID      string    `json:"id"`
	From    string    `json:"from"`
	To      []string  `json:"to"`
	Subject string    `json:"subject"`
	HTML    string    `json:"html"`
	Text    string    `json:"text"`
	Date    time.Time `json:"date"`
	// Deliveries is how often the mail arrived: the sink stores one mail for each
	// Message-ID.
	Deliveries int `json:"deliveries"`
}

// The subjects of the shop's letters, with the built-in templates.
const (
	Welcome         = "Welcome to Kiosk"
	VerifyEmail     = "Please verify your e-mail address"
	ResetPassword   = "Set a new password"
	PasswordChanged = "Your password was changed"
	EmailChanging   = "Your e-mail address is about to change"
	EmailChanged    = "Your e-mail address was changed"

	Confirmation = "Your order is confirmed"
	Apology      = "We are sorry: your order is out of stock"
	Completion   = "Your order is complete"
	Cancellation = "Your order is cancelled"
)

// Problem is the body of an error (RFC 9457).
type Problem struct {
	Type   string       `json:"type"`
	Title  string       `json:"title"`
	Status int          `json:"status"`
	Detail string       `json:"detail"`
	Errors []FieldError `json:"errors"`
}

// FieldError says what is wrong with one field.
type FieldError struct {
	Field   string `json:"field"`
	Message string `json:"message"`
}

// link matches the link in a letter. Its fragment is not sent to any server.
var link = regexp.MustCompile(`\S*/#(verify|reset)=([A-Za-z0-9._-]+)`)

// Link returns the address of the letter's link, and the token in it, or nothing if
// it has no link.
func (m Mail) Link() (address, token string) {
	if found := link.FindStringSubmatch(m.Text); found != nil {
		return found[0], found[2]
	}
	return "", ""
}
