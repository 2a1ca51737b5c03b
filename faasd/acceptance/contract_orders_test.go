package acceptance_test

import (
	"fmt"
	"slices"
	"strings"

	"github.com/kiosk-shop/kiosk/faasd/acceptance/client"
)

func line(p client.Product, quantity int) client.Item {
	return client.Item{ProductID: p.ID, Quantity: quantity}
}

// lines returns the body of an order.
func lines(items ...client.Item) object {
	all := list{}
	for _, i := range items {
		all = append(all, object{"product_id": i.ProductID, "quantity": i.Quantity})
	}
	return object{"items": all}
}

// noted returns a line as an order shows it.
func noted(p client.Product, quantity int) object {
	return object{"product_id": p.ID, "name": p.Name, "quantity": quantity, "unit_price": p.Price}
}

// POST /api/orders: user, {items:[{product_id, quantity}], user_id?, total?} →
// 201 {id, message, status:"PENDING", stock:"PENDING", items, total, currency};
// total, where sent, must equal the server's: else 422. Two lines of the same
// product count as one line of their sum. 1..100 lines, quantity 1..10,000.
func placingAnOrder(v visit) {
	ada := v.customer(v, "ada")
	tea, cup := v.product(v, "tea", 50, 19.99), v.product(v, "cup", 50, 0.1)
	ask := func(v visit, body any) *asking { return v.do("POST /api/orders").as(ada).body(body) }
	form := func(total float64, items ...any) object {
		return object{"id": anID, "message": someText, "status": "PENDING", "stock": "PENDING", "items": list(items), "total": total, "currency": someText}
	}
	got := ask(v, lines(line(tea, 2))).answers(201, form(39.98, noted(tea, 2)))
	v.do("GET /api/orders/"+got.text(v, "id")).as(ada).answers(200, object{"user_id": ada.id, "total": 39.98})

	order := lines(line(tea, 3), line(cup, 3))
	order["total"] = 60.27
	id := ask(v, order).answers(201).text(v, "id")
	v.do("GET /api/orders/"+id).as(ada).answers(200, object{"total": 60.27})
	order["total"] = 60.26
	ask(v, order).refuses(422, "total")
	order["total"] = 60.271
	ask(v, order).refuses(422, "total")

	v.part("two lines of one product", func(v visit) {
		id := v.do("POST /api/orders").as(ada).body(lines(line(tea, 1), line(cup, 1), line(tea, 2))).answers(201).text(v, "id")
		o := v.settled(v, ada, id)
		if len(o.Items) != 2 || o.Total != 60.07 {
			v.Errorf("the order is %+v", o)
		}
	})
	ask(v, lines()).refuses(422, "items")
	ask(v, lines(line(tea, 0))).refuses(422, "items[0].quantity")
	ask(v, lines(line(tea, -1))).refuses(422, "items[0].quantity")
	ask(v, lines(line(tea, 1), line(cup, 10_001))).refuses(422, "items[1].quantity")
	ask(v, lines(line(tea, 5_000), line(tea, 5_001))).refuses(422, "items")
	ask(v, lines(client.Item{ProductID: "ffffffffffffffffffffffff", Quantity: 1})).refuses(422, "items")
	ask(v, lines(client.Item{ProductID: "tea", Quantity: 1})).refuses(422, "items[0].product_id")
	ask(v, lines(make([]client.Item, 101)...)).refuses(422, "items")
	ask(v, `{"items":[{"product_id":"`+tea.ID+`","quantity":1.5}]}`).answers(400)
	v.do("POST /api/orders").body(lines(line(tea, 1))).answers(401)

	v.part("a hundred lines of ten thousand", func(v visit) {
		many := lines(line(cup, 10_000))
		ask(v, many).answers(201)
		many = lines()
		for range 100 {
			many["items"] = append(many["items"].(list), object{"product_id": cup.ID, "quantity": 1})
		}
		id := v.do("POST /api/orders").as(ada).body(many).answers(201).text(v, "id")
		v.do("GET /api/orders/"+id).as(ada).answers(200, object{"total": 10, "items": list{noted(cup, 100)}})
	})
	v.part("an order keeps its prices", func(v visit) {
		vase := v.product(v, "vase", 5, 30)
		id := v.do("POST /api/orders").as(ada).body(lines(line(vase, 1))).answers(201).text(v, "id")
		body := client.NewProduct{Name: "Dearer vase", Category: vase.Category, Stock: 5, Price: 99}
		v.do("PUT /api/inventory/" + vase.ID).as(v.admin(v)).body(body).answers(200)
		v.do("GET /api/orders/"+id).as(ada).answers(200, object{"total": 30, "items": list{noted(vase, 1)}})
	})
}

// user_id of somebody else needs admin.
func orderingForSomebodyElse(v visit) {
	ada, grace, admin, tea := v.customer(v, "ada"), v.customer(v, "grace"), v.admin(v), v.product(v, "tea", 50, 5)
	order := lines(line(tea, 1))
	order["user_id"] = ada.id
	v.do("POST /api/orders").as(ada).body(order).answers(201)
	v.do("POST /api/orders").as(grace).body(order).answers(403)
	id := v.do("POST /api/orders").as(admin).body(order).answers(201).text(v, "id")
	v.do("GET /api/orders/"+id).as(ada).answers(200, object{"user_id": ada.id})
	v.do("GET /api/orders/" + id).as(grace).answers(404)
	order["user_id"] = "ffffffffffffffffffffffff"
	v.do("POST /api/orders").as(admin).body(order).refuses(422, "user_id")
	until(v, "a confirmation to the order's customer", func() bool { return len(v.letters(v, ada.email, client.Confirmation, id)) == 1 })
}

// GET /api/orders/{id}: owner, admin → 200 {id, user_id, items, total,
// currency, status, stock, reason?, history, created_at, updated_at};
// somebody else's: 404.
func lookingAtAnOrder(v visit) {
	ada, grace, admin, tea := v.customer(v, "ada"), v.customer(v, "grace"), v.admin(v), v.product(v, "tea", 50, 5)
	o := v.buys(v, ada, line(tea, 2))
	form := object{
		"id": o.ID, "user_id": ada.id, "items": list{noted(tea, 2)}, "total": 10, "currency": someText,
		"status": "PENDING", "stock": "TAKEN", "created_at": aTime, "updated_at": aTime,
		"history": list{
			object{"at": aTime, "status": "PENDING", "stock": "PENDING", "by": ada.id},
			object{"at": aTime, "status": "PENDING", "stock": "TAKEN", "by": someText},
		},
	}
	v.do("GET /api/orders/"+o.ID).as(ada).answers(200, form)
	v.do("GET /api/orders/"+o.ID).as(admin).answers(200, form)
	v.do("GET /api/orders/" + o.ID).as(grace).answers(404)
	v.do("GET /api/orders/" + o.ID).answers(401)
	v.do("GET /api/orders/ffffffffffffffffffffffff").as(ada).answers(404)
	v.do("GET /api/orders/ffffffffffffffffffffffff").as(admin).answers(404)
}

// GET /api/orders?user_id=&status=&page=&limit=: owner, admin → 200 array,
// newest first, headers as in the product list.
func orderList(v visit) {
	ada, grace, admin, tea := v.customer(v, "ada"), v.customer(v, "grace"), v.admin(v), v.product(v, "tea", 500, 5)
	var ids list
	for range 5 {
		ids = append(list{object{"id": v.buys(v, ada, line(tea, 1)).ID, "user_id": ada.id}}, ids...)
	}
	theirs := v.buys(v, grace, line(tea, 1))
	got := v.do("GET /api/orders").as(ada).answers(200, ids)
	if n := got.header.Get("X-Total-Count"); n != "5" {
		v.Errorf("X-Total-Count is %q", n)
	}
	v.do("GET /api/orders?user_id="+ada.id).as(ada).answers(200, ids)
	v.do("GET /api/orders?user_id="+ada.id).as(admin).answers(200, ids)
	v.do("GET /api/orders?user_id="+grace.id).as(admin).answers(200, list{object{"id": theirs.ID}})
	v.do("GET /api/orders?user_id=" + grace.id).as(ada).answers(403)
	v.do("GET /api/orders").answers(401)
	v.do("GET /api/orders?user_id="+v.customer(v, "eve").id).as(admin).answers(200, list{})

	middle := v.do("GET /api/orders?page=2&limit=2").as(ada).answers(200, list{ids[2], ids[3]})
	if middle.rpc == "" {
		rels := links(v, middle)
		for rel, want := range map[string]string{"first": "1", "prev": "1", "next": "", "last": "3"} {
			if rels[rel].Get("page") != want {
				v.Errorf("Link %s of page 2 leads to %v", rel, rels[rel])
			}
		}
		next := "/api/orders?" + rels["next"].Encode()
		v.buys(v, ada, line(tea, 1)) // a newer order does not move others to the next page
		end := v.do("GET "+next).as(ada).answers(200, list{ids[4]})
		if rels := links(v, end); rels["next"] != nil || rels["prev"] != nil || end.header.Get("X-Total-Count") != "6" {
			v.Errorf("the last page counts %s, and its links are %v", end.header.Get("X-Total-Count"), rels)
		}
		v.do("GET "+next).as(grace).refuses(422, "after")
		v.do("GET "+next+"&status=PENDING").as(ada).refuses(422, "after")
		v.do("GET "+next+"&page=2").as(ada).refuses(422, "page")
		v.do("GET /api/orders?page=501").as(ada).refuses(422, "page")
		ids = append(list{object{"user_id": ada.id}}, ids...)
	}
	v.setStatus(v, ada, ids[1].(object)["id"].(string), client.Cancelled)
	v.do("GET /api/orders?status=CANCELLED").as(ada).answers(200, list{object{"id": ids[1].(object)["id"], "status": "CANCELLED"}})
	v.do("GET /api/orders?status=COMPLETED").as(ada).answers(200, list{})
	v.do("GET /api/orders?status=PENDING&limit=1&page=2").as(ada).answers(200, list{ids[2]})
	v.do("GET /api/orders?status=OPEN").as(ada).refuses(422, "status")
	v.do("GET /api/orders?limit=101").as(ada).refuses(422, "limit")
	v.do("GET /api/orders?page=x").as(ada).refuses(400, "page")
	v.do("GET /api/orders?user_id=me").as(admin).refuses(422, "user_id")
}

// PENDING → COMPLETED (only where stock is TAKEN) or CANCELLED; COMPLETED →
// CANCELLED (a return, admin only). CANCELLED is final. TAKEN → RETURNED when
// the order is cancelled.
func anOrdersLife(v visit) {
	ada, grace, admin, tea := v.customer(v, "ada"), v.customer(v, "grace"), v.admin(v), v.product(v, "tea", 100, 5)
	left := 100
	move := func(v visit, p person, id, status string, want int) {
		v.Helper()
		var form []any
		if want == 200 {
			form = append(form, object{"id": id, "message": someText, "status": status})
		}
		v.do("PUT /api/orders/"+id+"/status").as(p).body(object{"status": status}).answers(want, form...)
	}
	now := func(v visit, id, status, stock string, moves int) {
		v.Helper()
		var o client.Order
		soon(v, func() bool {
			o = v.order(v, ada, id)
			return o.Status == status && o.Stock == stock && len(o.History) == moves
		})
		if o.Status != status || o.Stock != stock || len(o.History) != moves {
			v.Errorf("the order is %s, its stock %s, after %d changes; want %s, %s, %d", o.Status, o.Stock, len(o.History), status, stock, moves)
		}
		v.hasStock(v, tea.ID, left)
	}
	cases := []struct {
		name string
		play func(v visit, id string)
	}{
		{"completed, then returned", func(v visit, id string) {
			move(v, ada, id, "COMPLETED", 403)
			move(v, grace, id, "COMPLETED", 404)
			now(v, id, "PENDING", "TAKEN", 2)
			move(v, admin, id, "COMPLETED", 200)
			now(v, id, "COMPLETED", "TAKEN", 3)
			move(v, admin, id, "COMPLETED", 409)
			move(v, admin, id, "PENDING", 409)
			move(v, ada, id, "CANCELLED", 403)
			move(v, grace, id, "CANCELLED", 404)
			now(v, id, "COMPLETED", "TAKEN", 3)
			move(v, admin, id, "CANCELLED", 200)
			left += 3
			now(v, id, "CANCELLED", "RETURNED", 4)
		}},
		{"cancelled by its owner", func(v visit, id string) {
			move(v, grace, id, "CANCELLED", 404)
			move(v, ada, id, "CANCELLED", 200)
			left += 3
			now(v, id, "CANCELLED", "RETURNED", 3)
			move(v, ada, id, "CANCELLED", 409)
			move(v, admin, id, "CANCELLED", 409)
			move(v, admin, id, "COMPLETED", 409)
			move(v, admin, id, "PENDING", 409)
			now(v, id, "CANCELLED", "RETURNED", 3)
		}},
		{"cancelled by the shopkeeper, who says why", func(v visit, id string) {
			v.do("PUT /api/orders/" + id + "/status").as(admin).body(object{"status": "CANCELLED", "reason": "the roof leaks"}).answers(200)
			left += 3
			v.do("GET /api/orders/"+id).as(ada).shows(200, object{"reason": "the roof leaks", "status": "CANCELLED"})
			now(v, id, "CANCELLED", "RETURNED", 3)
		}},
		{"not moved by nonsense", func(v visit, id string) {
			move(v, admin, id, "SHIPPED", 422)
			move(v, admin, id, "completed", 422)
			move(v, admin, id, "", 422)
			v.do("PUT /api/orders/" + id + "/status").body(object{"status": "CANCELLED"}).answers(401)
			v.do("PUT /api/orders/ffffffffffffffffffffffff/status").as(admin).body(object{"status": "CANCELLED"}).answers(404)
			v.do("PUT /api/orders/"+id+"/status").as(admin).body(object{"status": "CANCELLED", "stock": "RETURNED"}).refuses(400, "stock")
			now(v, id, "PENDING", "TAKEN", 2)
		}},
	}
	for _, c := range cases {
		v.part(c.name, func(v visit) {
			id := v.do("POST /api/orders").as(ada).body(lines(line(tea, 3))).answers(201).text(v, "id")
			v.settled(v, ada, id)
			left -= 3
			c.play(v, id)
		})
	}
	v.part("its letters", func(v visit) {
		v.settle(v)
		for subject, want := range map[string]int{client.Confirmation: 4, client.Cancellation: 3, client.Completion: 1, client.Apology: 0, client.Welcome: 1} {
			if n := len(v.letters(v, ada.email, subject)); n != want {
				v.Errorf("%q arrived %d times, want %d", subject, n, want)
			}
		}
	})
}

// PENDING → SHORT: something was missing, nothing was decremented, the order
// becomes CANCELLED with reason out_of_stock; one apology.
func shortOrders(v visit) {
	ada, admin := v.customer(v, "ada"), v.admin(v)
	few, many := v.product(v, "few", 3, 1), v.product(v, "many", 300, 1)
	for name, order := range map[string]object{
		"more than there is":        lines(line(few, 4)),
		"a part of it is missing":   lines(line(many, 5), line(few, 10)),
		"each line is there, alone": lines(line(few, 2), line(few, 2)),
	} {
		v.part(name, func(v visit) {
			id := v.do("POST /api/orders").as(ada).body(order).answers(201).text(v, "id")
			v.settled(v, ada, id)
			v.do("GET /api/orders/"+id).as(ada).answers(200, object{"status": "CANCELLED", "stock": "SHORT", "reason": client.OutOfStock})
			v.hasStock(v, few.ID, 3)
			v.hasStock(v, many.ID, 300)
			for _, status := range []string{"COMPLETED", "CANCELLED"} {
				v.do("PUT /api/orders/" + id + "/status").as(admin).body(object{"status": status}).answers(409)
			}
			until(v, "an apology", func() bool { return len(v.letters(v, ada.email, client.Apology, id)) == 1 })
		})
	}
	v.settle(v)
	if n := len(v.letters(v, ada.email, "")); n != 1+3 {
		v.Errorf("three short orders caused %d mails", n)
	}
}

// Idempotency-Key (1..255 printable ASCII, scoped to the user): the same key
// and body within 24 h answers the first answer again with
// Idempotent-Replayed: true and does nothing; the same key with another body:
// 422; while the first is in flight: 409.
func idempotentOrders(v visit) {
	ada, grace, tea := v.customer(v, "ada"), v.customer(v, "grace"), v.product(v, "tea", 1000, 5)
	ask := func(v visit, p person, key string, quantity int) *asking {
		return v.do("POST /api/orders").as(p).with("Idempotency-Key", key).body(lines(line(tea, quantity)))
	}
	count := func(v visit, p person) int {
		var all []client.Order
		v.must(v, client.Request{Method: "GET", Path: "/api/orders?limit=100", Token: p.grant.Token}, 200, &all)
		return len(all)
	}
	key := client.Unique("key")
	first := ask(v, ada, key, 1).answers(201)
	if first.header.Get("Idempotent-Replayed") != "" {
		v.Error("the first answer has Idempotent-Replayed")
	}
	v.settled(v, ada, first.text(v, "id"))
	for range 3 {
		again := ask(v, ada, key, 1).answers(201)
		if again.raw != first.raw || again.header.Get("Idempotent-Replayed") != "true" {
			v.Errorf("the second answer is %s, %q, the first was %s", again.raw, again.header.Get("Idempotent-Replayed"), first.raw)
		}
	}
	ask(v, ada, key, 2).answers(422)
	if n := count(v, ada); n != 1 {
		v.Errorf("there are %d orders", n)
	}
	if other := ask(v, grace, key, 2).answers(201); other.text(v, "id") == first.text(v, "id") {
		v.Error("a key of one customer affects another")
	}

	v.part("a rejected request does not use its key", func(v visit) {
		key := client.Unique("key")
		ask(v, ada, key, 0).answers(422)
		ask(v, ada, key, 1).answers(201)
	})
	v.part("twenty at once are one order", func(v visit) {
		before, key := count(v, ada), client.Unique("key")
		ids := map[string]bool{}
		for _, r := range v.together(20, func(int) *asking { return ask(v, ada, key, 1) }) {
			switch {
			case r.status == 201 || r.code == "OK":
				ids[r.text(v, "id")] = true
			case r.status == 409 || r.code == "FailedPrecondition" || r.code == "AlreadyExists":
			default:
				v.Errorf("unexpected answer: %d %s %s", r.status, r.code, r.raw)
			}
		}
		if n := count(v, ada); len(ids) != 1 || n != before+1 {
			v.Errorf("%d orders were answered, %d exist", len(ids), n-before)
		}
	})
	v.part("invalid keys", func(v visit) {
		before := count(v, ada)
		if _, rpc := v.door.(*rpcDoor); !rpc {
			ask(v, ada, "", 1).answers(400) // empty metadata is no metadata
		}
		ask(v, ada, strings.Repeat("k", 256), 1).answers(400)
		if n := count(v, ada); n != before {
			v.Errorf("%d orders were placed", n-before)
		}
		ask(v, ada, strings.Repeat("k", 255), 1).answers(201)
		ask(v, ada, `~!"#$%&'()*+,-./ 09:;<=>?@AZ[\]^_{|}`, 1).answers(201)
	})
	v.part("a key of a cancelled order has the same answer", func(v visit) {
		key := client.Unique("key")
		first := ask(v, grace, key, 1).answers(201)
		v.settled(v, grace, first.text(v, "id"))
		v.setStatus(v, grace, first.text(v, "id"), client.Cancelled)
		if again := ask(v, grace, key, 1).answers(201); again.raw != first.raw {
			v.Errorf("now it is %s, before it was %s", again.raw, first.raw)
		}
	})
}

// NATS subject order.created, for a plain subscriber too: {"order_id": "24
// hex", "items": [{"product_id": "24 hex", "quantity": 2}]}; later
// order.stock_taken, order.cancelled, order.completed in the same style.
// Nats-Msg-Id is the event's id; traceparent travels along.
func events(v visit) {
	ada, admin, tea := v.customer(v, "ada"), v.admin(v), v.product(v, "tea", 5, 5)
	heard, err := client.Listen(v.Target.NATS)
	if err != nil {
		v.Fatal(err)
	}
	defer heard.Close()
	const trace = "4bf92f3577b34da6a3ce929d0e0e4736"
	traceparent := "00-" + trace + "-00f067aa0ba902b7-01"
	place := func(quantity int) string {
		return v.do("POST /api/orders").as(ada).with("Traceparent", traceparent).body(lines(line(tea, quantity))).answers(201).text(v, "id")
	}
	expect := func(id string, quantity int, subjects ...string) {
		v.Helper()
		payload := fmt.Sprintf(`{"order_id":"%s","items":[{"product_id":"%s","quantity":%d}]}`, id, tea.ID, quantity)
		var found []client.Event
		until(v, strings.Join(subjects, ", "), func() bool {
			found = heard.About(id)
			return len(found) >= len(subjects)
		})
		// Different processes publish them, and promise no order.
		ids, left := map[string]bool{}, slices.Clone(subjects)
		for _, e := range found {
			i := slices.Index(left, e.Subject)
			if i < 0 || e.Payload != payload {
				v.Errorf("got the event %s %s, want each of %q once, with %s", e.Subject, e.Payload, subjects, payload)
				continue
			}
			left = slices.Delete(left, i, i+1)
			if e.ID == "" || ids[e.ID] {
				v.Errorf("the id of %s is %q, want one of its own", e.Subject, e.ID)
			}
			ids[e.ID] = true
			if got := e.Header.Get("traceparent"); e.Subject == "order.created" && !strings.Contains(got, trace) {
				v.Errorf("the traceparent of %s is %q, want the trace %s", e.Subject, got, trace)
			}
		}
	}
	done := place(2)
	v.settled(v, ada, done)
	v.setStatus(v, admin, done, client.Completed)
	expect(done, 2, "order.created", "order.stock_taken", "order.completed")
	v.setStatus(v, admin, done, client.Cancelled)
	expect(done, 2, "order.created", "order.stock_taken", "order.completed", "order.cancelled")
	short := place(6)
	expect(short, 6, "order.created", "order.cancelled")
}
