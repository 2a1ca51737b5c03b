package command

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"

	"github.com/xdg-go/scram"
	"go.mongodb.org/mongo-driver/v2/x/bsonx/bsoncore"

	"github.com/kiosk-shop/kiosk/faasd/documents/internal/fault"
	"github.com/kiosk-shop/kiosk/faasd/documents/internal/value"
)

// mechanism is the only one that this server supports (RFC 7677).
const mechanism = "SCRAM-SHA-256"

// authDB is the database that the user belongs to, a client's authSource.
const authDB = "admin"

// Salt and iterations are those of MongoDB's own SCRAM-SHA-256 users.
const (
	saltSize   = 28
	iterations = 15_000
)

// Credentials are those of the server's user: keys derived from the password,
// not the password.
type Credentials struct {
	user   [sha256.Size]byte
	name   string
	stored scram.StoredCredentials
	// The reply for a user that does not exist looks like any other: it has a
	// salt that depends on the name, and random keys.
	secret  []byte
	unknown scram.StoredCredentials
}

// NewCredentials returns the credentials of a user. Where both user and
// password are "", clients need not authenticate. It fails where only one of
// them is "", and where the password has characters that SASLprep (RFC 4013)
// forbids.
func NewCredentials(user, password string) (*Credentials, error) {
	if (user == "") != (password == "") {
		return nil, errors.New("user and password: set both or neither")
	}
	c := &Credentials{name: user, user: sha256.Sum256([]byte(user)), secret: random(sha256.Size),
		unknown: scram.StoredCredentials{StoredKey: random(sha256.Size), ServerKey: random(sha256.Size)}}
	if user == "" {
		return c, nil
	}
	client, err := scram.SHA256.NewClient(user, password, "")
	if err != nil {
		return nil, fmt.Errorf("user or password: %w", err)
	}
	c.stored, err = client.GetStoredCredentialsWithError(scram.KeyFactors{Salt: string(random(saltSize)), Iters: iterations})
	return c, err
}

func random(n int) []byte {
	b := make([]byte, n)
	rand.Read(b)
	return b
}

// required reports whether clients must authenticate.
func (c *Credentials) required() bool { return c.name != "" }

// lookup returns the keys of a user. It takes the same time for every name.
func (c *Credentials) lookup(name, db string) scram.StoredCredentials {
	mac := hmac.New(sha256.New, c.secret)
	mac.Write([]byte(name))
	found := c.unknown
	found.KeyFactors = scram.KeyFactors{Salt: string(mac.Sum(nil)[:saltSize]), Iters: iterations}
	user := sha256.Sum256([]byte(name))
	if subtle.ConstantTimeCompare(user[:], c.user[:]) == 1 && db == authDB && c.required() {
		found = c.stored
	}
	return found
}

// conversation is an authentication that has begun.
type conversation struct {
	*scram.ServerConversation
	db string
	// shortened: the client leaves out the empty exchange at the end.
	shortened bool
}

// conversationID is the same for all: a connection has one at a time.
const conversationID = 1

func authenticationFailed() error {
	return fault.New(fault.AuthenticationFailed, "Authentication failed.")
}

// startConversation returns the reply to a saslStart, which is a command or a
// part of hello.
func (r *Request) startConversation(start value.Doc, db string) ([]byte, error) {
	r.conn.sasl = nil
	if m := value.Field(start, "mechanism"); m.Type != bsoncore.TypeString || m.StringValue() != mechanism {
		return nil, fault.New(fault.MechanismUnavailable, "Received authentication for mechanism %s which is unknown or not enabled", m.String())
	}
	server, err := scram.SHA256.NewServer(func(name string) (scram.StoredCredentials, error) {
		return r.e.cfg.Credentials.lookup(name, db), nil
	})
	if err != nil {
		return nil, err
	}
	c := &conversation{ServerConversation: server.NewConversation(), db: db}
	if options := value.Field(start, "options"); value.IsDoc(options) {
		c.shortened = value.Truthy(value.Field(options.Data, "skipEmptyExchange"))
	}
	r.conn.sasl = c
	return r.step(start)
}

// step takes the next step of the conversation and returns the elements of the
// reply. The conversation ends with an error or with success.
func (r *Request) step(message value.Doc) ([]byte, error) {
	c := r.conn.sasl
	_, payload, ok := value.Field(message, "payload").BinaryOK()
	var out string
	var err error
	switch {
	case !ok:
		err = fault.New(fault.TypeMismatch, "BSON field '%s.payload' must be binary data", r.name)
	case !c.Done():
		// Acting as another user than the authenticated one is not supported.
		if out, err = c.Step(string(payload)); err != nil || c.AuthzID() != "" && c.AuthzID() != c.Username() {
			r.e.log.Warn("authentication failed", "remote", r.conn.Remote)
			err = authenticationFailed()
		}
	case len(payload) > 0:
		err = authenticationFailed()
	default:
		c.shortened = true // this is the empty exchange
	}
	done := err == nil && c.Valid() && c.shortened
	if done || err != nil {
		r.conn.sasl = nil
	}
	if err != nil {
		return nil, err
	}
	if done {
		r.conn.authenticated.Store(true)
	}
	b := bsoncore.AppendInt32Element(nil, "conversationId", conversationID)
	b = bsoncore.AppendBooleanElement(b, "done", done)
	return bsoncore.AppendBinaryElement(b, "payload", 0, []byte(out)), nil
}

func saslStart(r *Request) (err error) {
	r.out, err = r.startConversation(r.body, r.db)
	return err
}

func saslContinue(r *Request) (err error) {
	if r.conn.sasl == nil {
		return fault.New(fault.ProtocolError, "No SASL session state found")
	}
	if id, ok := value.Whole(r.field("conversationId")); !ok || id != conversationID {
		return fault.New(fault.ProtocolError, "sasl: Mismatched conversation id")
	}
	if r.db != r.conn.sasl.db {
		return fault.New(fault.ProtocolError, "Attempt to switch database target during SASL authentication.")
	}
	r.out, err = r.step(r.body)
	return err
}

// Authenticated reports whether a connection can use all commands.
func (e *Engine) Authenticated(conn *Conn) bool {
	return !e.cfg.Credentials.required() || conn.authenticated.Load()
}

func logout(r *Request) error {
	r.conn.sasl = nil
	r.conn.authenticated.Store(false)
	return nil
}

// appendAuthentication adds to the reply of hello what a client needs to
// authenticate. An authentication that hello began and that fails has no reply:
// the client then begins it again by saslStart.
func (r *Request) appendAuthentication() {
	// The same for all names, so that it does not show which of them exist.
	if v := r.field("saslSupportedMechs"); v.Type == bsoncore.TypeString {
		r.out = bsoncore.AppendValueElement(r.out, "saslSupportedMechs", value.Array(value.String(mechanism)))
	}
	if start := r.field("speculativeAuthenticate"); value.IsDoc(start) {
		db := value.Field(start.Data, "db")
		if db.Type != bsoncore.TypeString {
			return
		}
		if reply, err := r.startConversation(start.Data, db.StringValue()); err == nil {
			r.out = bsoncore.BuildDocumentElement(r.out, "speculativeAuthenticate", reply)
		}
	}
}

func connectionStatus(r *Request) error {
	var users, roles []value.Value
	if r.conn.authenticated.Load() {
		db := bsoncore.AppendStringElement(nil, "db", authDB)
		users = []value.Value{value.Of(bsoncore.BuildDocument(nil, bsoncore.AppendStringElement(nil, "user", r.e.cfg.Credentials.name), db))}
		roles = []value.Value{value.Of(bsoncore.BuildDocument(nil, bsoncore.AppendStringElement(nil, "role", "root"), db))}
	}
	r.out = bsoncore.BuildDocumentElement(r.out, "authInfo",
		bsoncore.BuildArrayElement(nil, "authenticatedUsers", users...),
		bsoncore.BuildArrayElement(nil, "authenticatedUserRoles", roles...))
	return nil
}
