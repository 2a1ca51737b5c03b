// Command operator is for a shop's operators. It shows events that could not be
// handled, and events and letters that are not delivered, and checks stock against its
// ledger. It connects to NATS and MongoDB directly, so run it where NATS_URL and
// MONGO_URI can be reached.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strconv"
	"text/tabwriter"
	"time"

	kiosk "github.com/kiosk-shop/kiosk/shared"
	"github.com/kiosk-shop/kiosk/shared/config"
	"github.com/kiosk-shop/kiosk/shared/mongodb"
	"github.com/kiosk-shop/kiosk/shared/nats"
	"github.com/kiosk-shop/kiosk/shared/version"
)

const usage = `usage: operator COMMAND, or operator -version

  dead-letters list          list the events that no consumer could handle
  dead-letters show NUMBER   show one of them with its payload
  dead-letters replay NUMBER publish it again and remove it; "all" for all of them
  dead-letters drop NUMBER   delete it
  outbox list                list the events and letters that are waiting or have failed
  ledger check               compare every product's stock with its ledger
  database compare           check that every document of the database in
                             MONGO_URI_BEFORE and MONGO_DB_NAME_BEFORE is unchanged
                             in the database in MONGO_URI and MONGO_DB_NAME

NATS_URL and MONGO_URI are the servers' addresses, by default the local box's.
`

// page is how many items are read at a time.
const page = 100

func main() {
	version.Flag()
	flag.Usage = func() { fmt.Fprint(os.Stderr, usage) }
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	err := run(ctx, flag.Args(), os.Stdout)
	switch {
	case errors.Is(err, errUsage):
		fmt.Fprint(os.Stderr, usage)
		os.Exit(2)
	case err != nil:
		fmt.Fprintln(os.Stderr, "operator:", err)
		os.Exit(1)
	}
}

var errUsage = errors.New("usage")

func run(ctx context.Context, args []string, out io.Writer) error {
	if len(args) < 2 {
		return errUsage
	}
	command, rest := args[0]+" "+args[1], args[2:]
	switch {
	case command == "dead-letters list" && len(rest) == 0:
		return withNATS(ctx, func(conn *nats.Conn) error { return listLetters(ctx, conn, out) })
	case command == "dead-letters replay" && len(rest) == 1 && rest[0] == "all":
		return withNATS(ctx, func(conn *nats.Conn) error { return replayAll(ctx, conn, out) })
	case args[0] == "dead-letters" && len(rest) == 1:
		number, err := strconv.ParseUint(rest[0], 10, 64)
		if err != nil {
			return fmt.Errorf("%q is not a dead letter's number: see dead-letters list", rest[0])
		}
		return withNATS(ctx, func(conn *nats.Conn) error { return oneLetter(ctx, conn, args[1], number, out) })
	case command == "outbox list" && len(rest) == 0:
		return withDB(ctx, func(db *mongodb.DB) error { return listOutbox(ctx, db, out) })
	case command == "ledger check" && len(rest) == 0:
		return withDB(ctx, func(db *mongodb.DB) error { return checkLedger(ctx, db, out) })
	case command == "database compare" && len(rest) == 0:
		return withDB(ctx, func(db *mongodb.DB) error { return compareDatabases(ctx, db, out) })
	}
	return errUsage
}

// withNATS calls fn with a connection, which is established in the background. It fails
// if NATS does not answer within 5 s.
func withNATS(ctx context.Context, fn func(*nats.Conn) error) error {
	url, err := config.String("NATS_URL", "nats://127.0.0.1:4222")
	if err != nil {
		return err
	}
	conn, err := nats.Open(url, "operator", nats.Options{}) // without options it creates no stream
	if err != nil {
		return err
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	for {
		err := conn.Ready(ctx)
		if err == nil {
			return fn(conn)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("NATS does not answer: %w", err)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func withDB(ctx context.Context, fn func(*mongodb.DB) error) error {
	return withDBOf(ctx, "MONGO_URI", "MONGO_DB_NAME", "mongodb://127.0.0.1:27017/?replicaSet=rs0", fn)
}

// withDBOf calls fn with the database that the two settings name. It fails if that does
// not answer.
func withDBOf(ctx context.Context, uriSetting, nameSetting, def string, fn func(*mongodb.DB) error) error {
	uri, err := config.String(uriSetting, def)
	if err != nil {
		return err
	}
	if uri == "" {
		return fmt.Errorf("%s is not set", uriSetting)
	}
	name, err := config.String(nameSetting, "kiosk")
	if err != nil {
		return err
	}
	db, err := mongodb.Open(uri, name)
	if err != nil {
		return fmt.Errorf("%s: %w", uriSetting, err)
	}
	defer db.Close()
	if err := db.Ping(ctx); err != nil {
		return fmt.Errorf("the MongoDB server in %s does not answer: %w", uriSetting, err)
	}
	return fn(db)
}

func listLetters(ctx context.Context, conn *nats.Conn, out io.Writer) error {
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "NUMBER\tAT\tSUBJECT\tCONSUMER\tATTEMPTS\tREASON")
	for from := uint64(1); ; {
		letters, err := conn.DeadLetters(ctx, from, page)
		if err != nil {
			return err
		}
		for _, l := range letters {
			fmt.Fprintf(table, "%d\t%s\t%s\t%s\t%d\t%s\n", l.Number, l.At.Format(time.RFC3339), l.Subject, l.Consumer, l.Attempts, l.Reason)
			from = l.Number + 1
		}
		if len(letters) < page {
			return table.Flush()
		}
	}
}

func oneLetter(ctx context.Context, conn *nats.Conn, command string, number uint64, out io.Writer) error {
	var err error
	switch command {
	case "show":
		var l nats.DeadLetter
		if l, err = conn.DeadLetter(ctx, number); err == nil {
			fmt.Fprintf(out, "number    %d\nevent     %s\nsubject   %s\nconsumer  %s\nattempts  %d\nat        %s\nreason    %s\n\n%s\n",
				l.Number, l.Event, l.Subject, l.Consumer, l.Attempts, l.At.Format(time.RFC3339), l.Reason, l.Payload)
		}
	case "replay":
		if err = conn.Replay(ctx, number); err == nil {
			fmt.Fprintf(out, "replayed %d\n", number)
		}
	case "drop":
		if err = conn.Drop(ctx, number); err == nil {
			fmt.Fprintf(out, "dropped %d\n", number)
		}
	default:
		return errUsage
	}
	return err
}

// replayAll replays the dead letters that exist when it is called, so that it does not
// replay one again that has failed again.
func replayAll(ctx context.Context, conn *nats.Conn, out io.Writer) error {
	began := time.Now()
	for from := uint64(1); ; {
		letters, err := conn.DeadLetters(ctx, from, page)
		if err != nil {
			return err
		}
		for _, l := range letters {
			if l.At.After(began) {
				return nil
			}
			if err := oneLetter(ctx, conn, "replay", l.Number, out); err != nil {
				return err
			}
			from = l.Number + 1
		}
		if len(letters) < page {
			return nil
		}
	}
}

func listOutbox(ctx context.Context, db *mongodb.DB, out io.Writer) error {
	waiting, err := db.Outbox().Waiting(ctx, page)
	if err != nil {
		return err
	}
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "ID\tAT\tEVENT\tLETTER\tATTEMPTS\tSTATE\tLAST ERROR")
	for _, w := range waiting {
		state := "waiting"
		if w.Failed {
			state = "failed"
		}
		event, letter := "-", "-"
		if w.Event != nil {
			event = w.Event.Subject
		}
		if w.Mail != nil {
			letter = w.Mail.Template
		}
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%d\t%s\t%s\n", w.ID, w.CreatedAt.Format(time.RFC3339), event, letter, w.Attempts, state, w.LastError)
	}
	if len(waiting) == page {
		fmt.Fprintf(table, "... only the oldest %d are listed\n", page)
	}
	return table.Flush()
}

func checkLedger(ctx context.Context, db *mongodb.DB, out io.Writer) error {
	wrong := 0
	for after := kiosk.ID(""); ; {
		some, last, err := db.CheckLedger(ctx, after, page)
		if err != nil {
			return err
		}
		for _, d := range some {
			fmt.Fprintf(out, "product %s: stock %d, sum of its ledger %d\n", d.ProductID, d.Stock, d.Ledger)
		}
		wrong += len(some)
		if last == "" {
			break
		}
		after = last
	}
	if wrong > 0 {
		return fmt.Errorf("the stock of %d products is not the sum of their ledgers", wrong)
	}
	fmt.Fprintln(out, "every product's stock is the sum of its ledger")
	return nil
}

// compareDatabases fails if db lacks a document of the previous database, or has a
// different one.
func compareDatabases(ctx context.Context, db *mongodb.DB, out io.Writer) error {
	return withDBOf(ctx, "MONGO_URI_BEFORE", "MONGO_DB_NAME_BEFORE", "", func(before *mongodb.DB) error {
		collections, err := before.Collections(ctx)
		if err != nil {
			return err
		}
		documents, missing := 0, 0
		for _, collection := range collections {
			all, lacking, err := before.Lacking(ctx, db, collection)
			if err != nil {
				return err
			}
			if lacking > 0 {
				fmt.Fprintf(out, "%s: %d of %d documents are missing or different\n", collection, lacking, all)
			}
			documents, missing = documents+all, missing+lacking
		}
		if missing > 0 {
			return fmt.Errorf("%d documents are missing or different", missing)
		}
		fmt.Fprintf(out, "all %d documents are unchanged\n", documents)
		return nil
	})
}
