package main

import (
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/kiosk-shop/kiosk/faasd/acceptance/box"
)

// edit replaces a text of a file, which must be there exactly once.
type edit struct{ file, old, new string }

// guards are what keeps the shop's promises, each with the edits that take it
// away. They are made in a copy of the sources, so that the product needs no
// switch for them. A run with a guard removed has to fail, or it would not
// notice if somebody removed it by mistake.
var guards = map[string][]edit{
	// The filter of the $inc no longer asks for enough stock.
	"stock": {{
		"shared/mongodb/products.go",
		`return r.move(ctx, bson.D{{Key: "_id", Value: objectID(id)}, enough}, -quantity, at)`,
		`_ = enough
	return r.move(ctx, bson.D{{Key: "_id", Value: objectID(id)}}, -quantity, at)`,
	}},
	// An event is not remembered, and its order's state is not looked at; nor
	// does the ledger's index refuse to note the same movement twice. Each of
	// the three is enough, so all of them go.
	"inbox": {{
		"shared/mongodb/orders.go",
		`func (r Inbox) Accept(ctx context.Context, event string) (bool, error) {
`,
		`func (r Inbox) Accept(ctx context.Context, event string) (bool, error) {
	if event != "" {
		return true, nil
	}
`,
	}, {
		"shared/order/fulfil.go", `if o.Stock != StockPending {`, `if false {`,
	}, {
		"shared/mongodb/products.go",
		`options.Index().SetUnique(true).SetPartialFilterExpression(exists("order_id"))`,
		`options.Index().SetPartialFilterExpression(exists("order_id"))`,
	}},
	// Nothing is stored: events and mails are said once, by whoever decided.
	"outbox": {{
		"shared/outbox/outbox.go",
		`	if err := o.store.Add(ctx, e); err != nil {
		return err
	}
`,
		``,
	}},
	// Entries are stored, and nobody comes back for them.
	"relay": {{
		"functions/outbox-relay/handler.go", `outbox.Run(ctx, interval)`, `<-ctx.Done()`,
	}},
	// A key that is taken can be taken again: what is left is to look first,
	// and a lock in Redis.
	"idempotency": {{
		"shared/mongodb/orders.go",
		`_, err := r.collection.InsertOne(ctx, orderKeyDocument{name, k.Fingerprint, objectID(k.OrderID), k.ExpiresAt})`,
		`_, err := r.collection.ReplaceOne(ctx, bson.D{{Key: "_id", Value: name}}, orderKeyDocument{name, k.Fingerprint, objectID(k.OrderID), k.ExpiresAt}, options.Replace().SetUpsert(true))`,
	}, {
		"shared/mongodb/orders.go",
		`	"go.mongodb.org/mongo-driver/v2/mongo"
`,
		`	"go.mongodb.org/mongo-driver/v2/mongo"
	"go.mongodb.org/mongo-driver/v2/mongo/options"
`,
	}},
}

func sabotages() string { return strings.Join(slices.Sorted(maps.Keys(guards)), ", ") }

// sources makes a copy of the project, with one guard removed if any is named,
// and goes there, so that the box is built from it, each time it is started:
// whoever works on the project meanwhile changes nothing of this run.
func sources(guard string) (remove func(), err error) {
	edits, ok := guards[guard]
	if !ok && guard != "" {
		return nil, fmt.Errorf("there is no guard %q to remove: take one of %s", guard, sabotages())
	}
	root, err := box.Root()
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "kiosk-sources-")
	if err != nil {
		return nil, err
	}
	remove = func() { _ = os.RemoveAll(dir) }
	if err = copyTree(root, dir); err == nil {
		for _, e := range edits {
			if err = e.apply(dir); err != nil {
				break
			}
		}
	}
	if err == nil {
		err = os.Chdir(dir)
	}
	if err != nil {
		remove()
		return nil, err
	}
	if guard != "" {
		say("chaos: the guard %q is removed: this run has to fail", guard)
	}
	return remove, nil
}

func (e edit) apply(root string) error {
	path := filepath.Join(root, e.file)
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if n := strings.Count(string(text), e.old); n != 1 {
		return fmt.Errorf("%s has %d times what is to be replaced there: adapt the edit to what the file says now:\n%s", e.file, n, e.old)
	}
	return os.WriteFile(path, []byte(strings.Replace(string(text), e.old, e.new, 1)), 0o600)
}

// reuse gives a box what another one has compiled, before it starts: it takes of
// that what still fits its sources, and compiles the rest.
func reuse(from, to string) error {
	for _, folder := range []string{"bin", filepath.Join("gateway", "images")} {
		if err := copyTree(filepath.Join(from, folder), filepath.Join(to, folder)); err != nil {
			return err
		}
	}
	return nil
}

// copyTree copies what is not hidden: folders whose name begins with a dot hold
// what was made from the sources, or their history.
func copyTree(from, to string) error {
	return filepath.WalkDir(from, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		relative, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		target := filepath.Join(to, relative)
		switch {
		case entry.IsDir() && relative != "." && strings.HasPrefix(entry.Name(), "."):
			return fs.SkipDir
		case entry.IsDir():
			return os.MkdirAll(target, 0o700)
		case !entry.Type().IsRegular():
			return nil
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		content, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		return os.WriteFile(target, content, info.Mode().Perm()|0o600)
	})
}
