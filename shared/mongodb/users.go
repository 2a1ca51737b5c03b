package mongodb

import (
	"context"
	"strings"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"
	"go.mongodb.org/mongo-driver/v2/mongo/options"

	kiosk "github.com/kiosk-shop/kiosk/shared"
	"github.com/kiosk-shop/kiosk/shared/user"
)

const users = "users"

// One index over both logins: a name that is another's address is as taken
// as a name that is another's name.
func userIndexes() []mongo.IndexModel {
	return []mongo.IndexModel{
		unique(bson.D{{Key: "logins", Value: 1}}),
		{Keys: bson.D{{Key: "role", Value: 1}}, Options: options.Index().SetPartialFilterExpression(administrators)},
	}
}

var administrators = bson.D{{Key: "role", Value: kiosk.RoleAdmin}}

// Users is a user.Repository.
type Users struct{ collection collection }

// Users keeps the accounts.
func (d *DB) Users() Users { return Users{d.collection(users)} }

type userDocument struct {
	ID            bson.ObjectID     `bson:"_id"`
	Logins        []string          `bson:"logins"` // keys of the name and the address
	Username      string            `bson:"username"`
	Email         string            `bson:"email"`
	EmailVerified bool              `bson:"email_verified,omitempty"`
	PendingEmail  string            `bson:"pending_email,omitempty"`
	Name          string            `bson:"name"`
	Role          kiosk.Role        `bson:"role"`
	PasswordHash  string            `bson:"password_hash"`
	Sessions      []sessionDocument `bson:"sessions"`
	Links         []linkDocument    `bson:"links,omitempty"`
	Revision      int64             `bson:"revision"`
	CreatedAt     time.Time         `bson:"created_at"`
	UpdatedAt     time.Time         `bson:"updated_at"`
}

// sessionDocument is one of a user's sessions, of which user.MaxSessions bounds
// the number.
type sessionDocument struct {
	ID         bson.ObjectID `bson:"id"`
	Generation int64         `bson:"generation"`
	CreatedAt  time.Time     `bson:"created_at"`
	ExpiresAt  time.Time     `bson:"expires_at"`
}

// linkDocument is one of a user's unused links, whose number is bounded, too.
type linkDocument struct {
	Purpose   user.Purpose `bson:"purpose"`
	Hash      []byte       `bson:"hash"`
	Address   string       `bson:"address"`
	ExpiresAt time.Time    `bson:"expires_at"`
}

func fromUser(u user.User) userDocument {
	logins := []string{user.Key(u.Email)}
	if name := user.Key(u.Username); name != logins[0] {
		logins = append(logins, name)
	}
	return userDocument{
		ID: objectID(u.ID), Logins: logins, Username: u.Username, Email: u.Email, EmailVerified: u.EmailVerified, PendingEmail: u.PendingEmail,
		Name: u.Name, Role: u.Role, PasswordHash: u.PasswordHash,
		Sessions: convert(u.Sessions, func(s user.Session) sessionDocument {
			return sessionDocument{objectID(s.ID), s.Generation, s.CreatedAt, s.ExpiresAt}
		}),
		Links:    convert(u.Links, func(l user.Link) linkDocument { return linkDocument(l) }),
		Revision: u.Revision, CreatedAt: u.CreatedAt, UpdatedAt: u.UpdatedAt,
	}
}

func (d userDocument) user() user.User {
	return user.User{
		ID: id(d.ID), Username: d.Username, Email: d.Email, EmailVerified: d.EmailVerified, PendingEmail: d.PendingEmail,
		Name: d.Name, Role: d.Role, PasswordHash: d.PasswordHash,
		Sessions: convert(d.Sessions, func(s sessionDocument) user.Session {
			return user.Session{ID: id(s.ID), UserID: id(d.ID), Role: d.Role, Generation: s.Generation, CreatedAt: s.CreatedAt.UTC(), ExpiresAt: s.ExpiresAt.UTC()}
		}),
		Links: convert(d.Links, func(l linkDocument) user.Link {
			return user.Link{Purpose: l.Purpose, Hash: l.Hash, Address: l.Address, ExpiresAt: l.ExpiresAt.UTC()}
		}),
		Revision: d.Revision, CreatedAt: d.CreatedAt.UTC(), UpdatedAt: d.UpdatedAt.UTC(),
	}
}

// Insert adds an account.
func (r Users) Insert(ctx context.Context, u user.User) error {
	_, err := r.collection.InsertOne(ctx, fromUser(u))
	return loginTaken(err, u)
}

func loginTaken(err error, u user.User) error {
	if !mongo.IsDuplicateKeyError(err) {
		return unavailable(err)
	}
	// Which of the two is taken, the server says by quoting the value.
	field, what := "username", "this user name is taken"
	if strings.Contains(err.Error(), `"`+user.Key(u.Email)+`"`) {
		field, what = "email", "this e-mail address is taken"
	}
	return &kiosk.Error{Kind: kiosk.KindConflict, Message: what, Fields: []kiosk.FieldError{{Field: field, Message: "is taken"}}}
}

// ByID finds an account.
func (r Users) ByID(ctx context.Context, id kiosk.ID) (user.User, error) {
	return r.one(ctx, bson.D{{Key: "_id", Value: objectID(id)}})
}

// ByIDs finds the accounts that exist of those asked for.
func (r Users) ByIDs(ctx context.Context, ids []kiosk.ID) ([]user.User, error) {
	docs, err := find[userDocument](ctx, r.collection, bson.D{among(ids)})
	return convert(docs, userDocument.user), err
}

// ByLogin finds an account by the key of its name or address.
func (r Users) ByLogin(ctx context.Context, key string) (user.User, error) {
	return r.one(ctx, bson.D{{Key: "logins", Value: key}})
}

func (r Users) one(ctx context.Context, filter bson.D) (user.User, error) {
	var d userDocument
	if err := r.collection.FindOne(ctx, filter).Decode(&d); err != nil {
		return user.User{}, found(err, "user")
	}
	return d.user(), nil
}

// HasAdministrator reports whether any account is an administrator's.
func (r Users) HasAdministrator(ctx context.Context) (bool, error) {
	_, err := r.one(ctx, administrators)
	if kiosk.IsKind(err, kiosk.KindNotFound) {
		return false, nil
	}
	return err == nil, err
}

// Exists reports whether there is such an account.
func (r Users) Exists(ctx context.Context, id kiosk.ID) (bool, error) {
	_, err := r.ByID(ctx, id)
	if kiosk.IsKind(err, kiosk.KindNotFound) {
		return false, nil
	}
	return err == nil, err
}

// Verified reports whether an account's e-mail address is verified; false where
// there is no such account.
func (r Users) Verified(ctx context.Context, id kiosk.ID) (bool, error) {
	u, err := r.ByID(ctx, id)
	if kiosk.IsKind(err, kiosk.KindNotFound) {
		return false, nil
	}
	return u.EmailVerified, err
}

// Update writes an account that has not changed since it was read.
func (r Users) Update(ctx context.Context, u user.User) error {
	d := fromUser(u)
	d.Revision++
	result, err := r.collection.ReplaceOne(ctx, bson.D{{Key: "_id", Value: d.ID}, {Key: "revision", Value: u.Revision}}, d)
	if err != nil {
		return loginTaken(err, u)
	}
	if result.MatchedCount == 0 {
		return kiosk.Conflict("the account was changed by another request at the same time: try again")
	}
	return nil
}

// Delete removes an account that has not changed since it was read.
func (r Users) Delete(ctx context.Context, u user.User) error {
	result, err := r.collection.DeleteOne(ctx, bson.D{{Key: "_id", Value: objectID(u.ID)}, {Key: "revision", Value: u.Revision}})
	if err != nil {
		return unavailable(err)
	}
	if result.DeletedCount == 0 {
		return kiosk.Conflict("the account was changed by another request at the same time: try again")
	}
	return nil
}
