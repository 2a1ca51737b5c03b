package acceptance_test

import (
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strings"

	"github.com/kiosk-shop/kiosk/faasd/acceptance/client"
)

// productForm is the form of a product.
func productForm(name, category string, stock int, price float64) object {
	return object{
		"id": anID, "name": name, "description": matcher(func(any) string { return "" }), "category": category,
		"stock": stock, "price": price, "currency": textLike(`^[A-Z]{3}$`, "a currency"), "created_at": aTime, "updated_at": aTime,
	}
}

// GET /api/inventory?category=&q=&sort=: anyone → 200 JSON array of products.
func productList(v visit) {
	// One word each: what is random in them must not begin one, which a search for "b" or
	// for the "gt" of an operator would find.
	word := func(name string) string { return strings.ReplaceAll(client.Unique(name), "-", "") }
	admin, shelf, sku := v.admin(v), word("shelf"), word("ART")
	for _, p := range []object{
		{"name": "Banana", "category": shelf, "stock": 3, "price": 0.5},
		{"name": "apple", "category": shelf, "stock": 0, "price": 1.25, "description": "Crisp & red"},
		{"name": "Cherry", "category": shelf, "stock": 9, "price": 12, "description": "100% RED. (really)"},
	} {
		v.do("POST /api/inventory").as(admin).body(p).answers(201)
	}
	listed := func(v visit, query string, want ...string) {
		v.Helper()
		got := v.do("GET /api/inventory?category=" + shelf + query).answers(200)
		var found []string
		products, ok := got.body.([]any)
		if !ok {
			v.Fatalf("the list is not an array: %s", got.raw)
		}
		for _, p := range products {
			found = append(found, p.(map[string]any)["name"].(string))
		}
		if !slices.Equal(found, want) {
			v.Errorf("%s lists %q, want %q", query, found, want)
		}
		if n := got.header.Get("X-Total-Count"); n != fmt.Sprint(len(want)) {
			v.Errorf("%s: X-Total-Count is %q", query, n)
		}
	}
	v.do("GET /api/inventory?sort=price&category="+shelf).answers(200, list{
		productForm("Banana", shelf, 3, 0.5), productForm("apple", shelf, 0, 1.25), productForm("Cherry", shelf, 9, 12),
	})
	listed(v, "&sort=price", "Banana", "apple", "Cherry")
	listed(v, "&sort=-price", "Cherry", "apple", "Banana")
	listed(v, "&sort=created_at", "Banana", "apple", "Cherry")
	listed(v, "&sort=-created_at", "Cherry", "apple", "Banana")
	listed(v, "&sort=price&q=red", "apple", "Cherry")
	listed(v, "&q=BANANA", "Banana")
	listed(v, "&q="+url.QueryEscape("100%"), "Cherry")
	listed(v, "&q="+url.QueryEscape("(really)"), "Cherry")
	listed(v, "&q=.*")
	listed(v, "&q=nothing+of+the+kind")

	// Every word of q begins a word of name, description, category or SKU,
	// letters' case and accents aside.
	v.do("POST /api/inventory").as(admin).body(object{
		"name": "Crème brûlée", "category": shelf, "stock": 1, "price": 4, "sku": sku, "description": "Größe M, сладкий,\n甘い " + strings.Repeat("and more ", 900) + "finally",
	}).answers(201)
	for _, q := range []string{
		"creme", "CRÈME", "cre\u0300m", "bru cre", "brulee, creme!", "GRÖSSE", "große m", "grosse", "Слад", "甘", "finally", sku, strings.ToLower(sku), "cre " + shelf, shelf + " creme",
	} {
		listed(v, "&q="+url.QueryEscape(q), "Crème brûlée")
	}
	for _, q := range []string{"rème", "crème banana", "creme xylophone", "cremes", "slad", "%", "*", "^", "$ne", `{"$gt":""}`} {
		listed(v, "&q="+url.QueryEscape(q))
	}
	listed(v, "&sort=-price&q=b", "Crème brûlée", "Banana")
	v.do("GET /api/inventory?q="+strings.Repeat("a", 101)).refuses(422, "q")

	v.part("a change is found", func(v visit) {
		word := word("wort")
		find := func(want int) {
			v.Helper()
			var found, total string
			look := func() bool {
				got := v.do("GET /api/inventory?q=" + word).answers(200)
				products, _ := got.body.([]any)
				found, total = fmt.Sprint(len(products)), got.header.Get("X-Total-Count")
				return found == fmt.Sprint(want) && total == found
			}
			if home != nil {
				look()
			} else {
				// With several edges, a change through another one takes up to half a second
				// to appear in lists. That one edge shows it says nothing about the next.
				soon(v, look)
			}
			if found != fmt.Sprint(want) || total != found {
				v.Errorf("%s finds %s of %s, want %d", word, found, total, want)
			}
		}
		find(0)
		body := object{"name": "Thing " + word, "category": shelf, "stock": 1, "price": 1}
		id := v.do("POST /api/inventory").as(admin).body(body).answers(201).text(v, "id")
		find(1)
		v.do("PUT /api/inventory/" + id).as(admin).body(body.but("name", "Thing")).answers(200)
		find(0)
		v.do("PUT /api/inventory/" + id).as(admin).body(body.but("name", "Thing").but("description", word)).answers(200)
		find(1)
		v.do("DELETE /api/inventory/" + id).as(admin).answers(200)
		find(0)
	})

	// The order of capitals depends on the database's collation, but the two directions
	// have to be each other's reverse.
	v.part("sort by name", func(v visit) {
		var orders [2][]string
		for i, sort := range []string{"name", "-name"} {
			for _, p := range v.do("GET /api/inventory?category=" + shelf + "&sort=" + sort).answers(200).body.([]any) {
				orders[i] = append(orders[i], p.(map[string]any)["name"].(string))
			}
		}
		slices.Reverse(orders[1])
		if len(orders[0]) != 4 || !slices.Equal(orders[0], orders[1]) {
			v.Errorf("name: %q, -name turned round: %q", orders[0], orders[1])
		}
	})
	// A category is not a prefix of another one.
	v.do("GET /api/inventory?category="+shelf[:len(shelf)-1]).answers(200, list{})
}

// limit 1..100 (20), page from 1 (up to 10,000 items deep), or after, an opaque
// place in the list; X-Total-Count, and RFC 8288 Link headers, whose next
// always works.
func productPages(v visit) {
	shelf := client.Unique("shelf")
	for i := range 23 {
		body := object{"name": fmt.Sprintf("Thing %02d", i), "category": shelf, "stock": 1, "price": 1}
		v.do("POST /api/inventory").as(v.admin(v)).body(body).answers(201)
	}
	page := func(query string, want int, first string) reply {
		v.Helper()
		got := v.do("GET /api/inventory?category=" + shelf + query).answers(200)
		products, _ := got.body.([]any)
		if len(products) != want {
			v.Fatalf("%s has %d products, want %d: %s", query, len(products), want, got.raw)
		}
		if want > 0 && products[0].(map[string]any)["name"] != first {
			v.Errorf("%s begins with %v, want %s", query, products[0], first)
		}
		if n := got.header.Get("X-Total-Count"); n != "23" {
			v.Errorf("%s: X-Total-Count is %q", query, n)
		}
		return got
	}
	page("", 20, "Thing 00")
	page("&page=2", 3, "Thing 20")
	page("&page=3", 0, "")
	page("&limit=1&page=23", 1, "Thing 22")
	page("&limit=100", 23, "Thing 00")
	last := page("&limit=10&page=3", 3, "Thing 20")
	middle := page("&limit=10&page=2", 10, "Thing 10")

	for _, query := range []string{
		"limit=0", "limit=101", "limit=-1", "page=0", "page=-1", "limit=2147483648", "page=99999999999999999999", "page=501", "page=2147483647",
		"after=x", "after=AQ", "after=.&sort=price", "after=%24gt", "after=" + strings.Repeat("A", 5000),
	} {
		field, _, _ := strings.Cut(query, "=")
		if _, rpc := v.door.(*rpcDoor); rpc && strings.HasSuffix(query, "=0") {
			continue // proto3 does not distinguish 0 from an absent field
		}
		v.do("GET /api/inventory?"+query).refuses(422, field)
	}
	for _, query := range []string{"limit=ten", "page=1.5", "page=1e3", "limit=%20"} {
		field, _, _ := strings.Cut(query, "=")
		v.do("GET /api/inventory?"+query).refuses(400, field)
	}
	v.do("GET /api/inventory?sort=stock").refuses(422, "sort")
	v.do("GET /api/inventory?sort=-").refuses(422, "sort")

	if middle.rpc != "" {
		return
	}
	rels := links(v, middle)
	for rel, want := range map[string]string{"first": "1", "prev": "1", "next": "", "last": "3"} {
		if rels[rel].Get("page") != want || rels[rel].Get("limit") != "10" || rels[rel].Get("category") != shelf {
			v.Errorf("Link %s of page 2 leads to %v", rel, rels[rel])
		}
	}
	if rels := links(v, last); rels["next"] != nil || rels["prev"].Get("page") != "2" {
		v.Errorf("the last page's links are %v", rels)
	}
	v.do("GET /api/inventory?limit=100&page=100").answers(200)
	v.do("GET /api/inventory?limit=100&page=101").refuses(422, "page")

	// Following next visits each product once, although a product is created and one
	// deleted meanwhile.
	v.part("next", func(v visit) {
		for sort, want := range map[string][]int{"name": {0, 1, 2}, "-name": {10, 9, 8}, "created_at": {0, 1, 2}, "-created_at": {10, 9, 8}, "price": nil, "-price": nil} {
			shelf, ids := client.Unique("shelf"), []string{}
			for i := range 11 {
				body := object{"name": fmt.Sprintf("Thing %02d", i), "category": shelf, "stock": 1, "price": 1}
				ids = append(ids, v.do("POST /api/inventory").as(v.admin(v)).body(body).answers(201).text(v, "id"))
			}
			path, seen := "/api/inventory?limit=2&sort="+sort+"&category="+shelf, []string{}
			for n := 0; path != ""; n++ {
				got := v.do("GET " + path).answers(200)
				for _, p := range got.body.([]any) {
					seen = append(seen, p.(map[string]any)["id"].(string))
				}
				if total := got.header.Get("X-Total-Count"); total != "11" || got.header.Get("X-Total-Count-Exact") != "" {
					v.Errorf("%s counts %s", path, total)
				}
				next := links(v, got)["next"]
				if next == nil {
					break
				}
				if path = "/api/inventory?" + next.Encode(); n == 2 {
					v.do("DELETE /api/inventory/" + seen[len(seen)-1]).as(v.admin(v)).answers(200) // the first of the next page
					v.do("DELETE /api/inventory/" + seen[0]).as(v.admin(v)).answers(200)
					for range 2 {
						v.do("POST /api/inventory").as(v.admin(v)).body(object{"name": "Thing 0", "category": shelf, "stock": 1, "price": 0.5}).answers(201)
					}
				}
			}
			for i, n := range want {
				if seen[i] != ids[n] {
					v.Errorf("by %s, product %d is not %d", sort, i, n)
				}
			}
			once := slices.Compact(slices.Sorted(slices.Values(seen)))
			for _, id := range ids {
				if !slices.Contains(once, id) {
					v.Errorf("by %s, %s was not listed", sort, id)
				}
			}
			if len(once) != len(seen) {
				v.Errorf("by %s, %d products were listed %d times", sort, len(once), len(seen))
			}
		}
	})
	v.part("a cursor is valid for its list only", func(v visit) {
		token := rels["next"].Get("after")
		v.do("GET /api/inventory?category="+shelf+"&limit=3&after="+token).answers(200, list{object{"name": "Thing 20"}, object{"name": "Thing 21"}, object{"name": "Thing 22"}})
		for _, other := range []string{"", "&category=x", "&sort=price", "&sort=-name", "&q=thing"} {
			if !strings.HasPrefix(other, "&category") {
				other += "&category=" + shelf
			}
			if other != "&category="+shelf {
				v.do("GET /api/inventory?after="+token+other).refuses(422, "after")
			}
		}
		v.do("GET /api/inventory?after="+token).refuses(422, "after")
		v.do("GET /api/inventory?category="+shelf+"&after="+token[1:]).refuses(422, "after")
		v.do("GET /api/inventory?category="+shelf+"&after="+token+"A").refuses(422, "after")
		v.do("GET /api/inventory?category="+shelf+"&page=3&after="+token).refuses(422, "page")
		v.do("GET /api/inventory?category="+shelf+"&after="+token+"&after="+token).refuses(400, "after")
	})
}

var link = regexp.MustCompile(`<([^>]*)>; rel="([a-z]+)"`)

// links returns the query of each relation's target in an RFC 8288 header.
func links(v visit, r reply) map[string]url.Values {
	v.Helper()
	found := map[string]url.Values{}
	for _, match := range link.FindAllStringSubmatch(r.header.Get("Link"), -1) {
		u, err := url.Parse(match[1])
		if err != nil || u.Path != "/api/inventory" && u.Path != "/api/orders" {
			v.Errorf("Link leads to %q", match[1])
			continue
		}
		found[match[2]] = u.Query()
	}
	return found
}

// GET /api/inventory/{id}: anyone → 200 product with ETag; 304 on
// If-None-Match.
func lookingAtAProduct(v visit) {
	p := v.product(v, "lamp", 7, 19.99)
	got := v.do("GET /api/inventory/"+p.ID).answers(200, productForm(p.Name, p.Category, 7, 19.99), object{"id": p.ID})
	v.do("GET /api/inventory/ffffffffffffffffffffffff").answers(404)
	if got.rpc != "" {
		return
	}
	etag := got.header.Get("ETag")
	if !regexp.MustCompile(`^(W/)?"[^"]+"$`).MatchString(etag) {
		v.Fatalf("the ETag is %q", etag)
	}
	for _, header := range []string{etag, "W/" + etag, `"other", ` + etag, "*"} {
		again := v.do("GET /api/inventory/"+p.ID).with("If-None-Match", header).answers(304)
		if again.header.Get("ETag") != etag {
			v.Errorf("a 304 with the ETag %q", again.header.Get("ETag"))
		}
	}
	v.do("GET /api/inventory/"+p.ID).with("If-None-Match", `"other"`).answers(200)
	v.do("HEAD /api/inventory/" + p.ID).answers(200)

	v.part("a sale changes the ETag", func(v visit) {
		v.buys(v, v.customer(v, "ada"), client.Item{ProductID: p.ID, Quantity: 1})
		v.do("GET /api/inventory/"+p.ID).with("If-None-Match", etag).shows(200, object{"stock": 6})
	})
}

// POST /api/inventory: admin, {name, description?, category, stock, price,
// sku?, image_url?} → 201 product + Location.
func creatingAProduct(v visit) {
	admin, ada := v.admin(v), v.customer(v, "ada")
	body := object{"name": client.Unique("Tea 茶"), "description": "Two\nlines", "category": "drinks", "stock": 5, "price": 19.99}
	got := v.do("POST /api/inventory").as(admin).body(body).answers(201, productForm(body["name"].(string), "drinks", 5, 19.99), object{"description": "Two\nlines"})
	id := got.text(v, "id")
	v.do("GET /api/inventory/"+id).answers(200, productForm(body["name"].(string), "drinks", 5, 19.99))
	if got.rpc == "" && got.header.Get("Location") != "/api/inventory/"+id {
		v.Errorf("Location is %q", got.header.Get("Location"))
	}
	v.do("POST /api/inventory").body(body).answers(401)
	v.do("POST /api/inventory").as(ada).body(body).answers(403)
	v.do("POST /api/inventory").as(admin).body(object{"name": "Free", "category": "gifts", "stock": 0, "price": 0}).answers(201, object{"stock": 0, "price": 0})
	v.do("POST /api/inventory").as(admin).body(object{"name": "", "category": "", "stock": -1, "price": -1}).refuses(422, "name", "category", "stock", "price")
	v.do("POST /api/inventory").as(admin).body(`{}`).refuses(422, "name", "category", "stock", "price")

	sku := client.Unique("SKU")
	body["sku"], body["image_url"] = sku, "https://example.com/tea.png"
	v.do("POST /api/inventory").as(admin).body(body).answers(201, object{"sku": sku, "image_url": "https://example.com/tea.png"})
	v.do("POST /api/inventory").as(admin).body(body).refuses(409, "sku")
}

// PUT /api/inventory/{id}: admin, the whole product → 200; If-Match with a
// stale ETag: 412.
func replacingAProduct(v visit) {
	admin, ada, p := v.admin(v), v.customer(v, "ada"), v.product(v, "lamp", 7, 19.99)
	path := "/api/inventory/" + p.ID
	body := object{"name": "Better lamp", "category": "lights", "stock": 4, "price": 21}
	got := v.do("PUT "+path).as(admin).body(body).answers(200, productForm("Better lamp", "lights", 4, 21), object{"id": p.ID})
	v.do("GET "+path).shows(200, productForm("Better lamp", "lights", 4, 21))
	v.do("PUT " + path).body(body).answers(401)
	v.do("PUT " + path).as(ada).body(body).answers(403)
	v.do("PUT /api/inventory/ffffffffffffffffffffffff").as(admin).body(body).answers(404)
	sku := client.Unique("SKU")
	v.do("POST /api/inventory").as(admin).body(body.but("sku", sku)).answers(201)
	v.do("PUT "+path).as(admin).body(body.but("sku", sku)).refuses(409, "sku")
	v.do("PUT "+path).as(admin).body(`{"name":"Half a lamp"}`).refuses(422, "category", "stock", "price")
	v.do("GET "+path).answers(200, object{"name": "Better lamp", "category": "lights"})
	if got.rpc != "" {
		return
	}
	current := got.header.Get("ETag")
	v.do("PUT "+path).as(admin).body(body).with("If-Match", `"other"`).answers(412)
	fresh := v.do("PUT "+path).as(admin).body(body).with("If-Match", current).answers(200).header.Get("ETag")
	if fresh == "" || fresh == current {
		v.Errorf("after a change the ETag is %q, before it was %q", fresh, current)
	}
	v.do("PUT "+path).as(admin).body(body).with("If-Match", current).answers(412)
	current = v.do("PUT "+path).as(admin).body(body).with("If-Match", "*").answers(200).header.Get("ETag")
	v.do("GET "+path).with("If-None-Match", current).shows(304)
	v.buys(v, ada, client.Item{ProductID: p.ID, Quantity: 1})
	v.do("PUT "+path).as(admin).body(body).with("If-Match", current).answers(412)
	v.do("GET "+path).shows(200, object{"stock": 3})

	v.part("one of ten at once wins", func(v visit) {
		etag := v.do("PUT " + path).as(admin).body(body).answers(200).header.Get("ETag")
		replies := v.together(10, func(i int) *asking {
			return v.do("PUT "+path).as(admin).with("If-Match", etag).body(object{"name": fmt.Sprintf("Lamp %d", i), "category": "lights", "stock": 4, "price": 21})
		})
		tally(v, replies, map[int]int{200: 1, 412: 9})
	})
}

// DELETE /api/inventory/{id}: admin → 200 {message}; old orders keep their
// snapshot.
func deletingAProduct(v visit) {
	admin, ada, p := v.admin(v), v.customer(v, "ada"), v.product(v, "lamp", 7, 19.99)
	path := "/api/inventory/" + p.ID
	o := v.buys(v, ada, client.Item{ProductID: p.ID, Quantity: 2})
	v.do("DELETE " + path).answers(401)
	v.do("DELETE " + path).as(ada).answers(403)
	v.do("GET " + path).answers(200)
	v.do("DELETE "+path).as(admin).answers(200, object{"message": someText})
	v.do("GET " + path).shows(404)
	v.do("DELETE " + path).as(admin).answers(404)
	v.do("PUT " + path).as(admin).body(object{"name": "x", "category": "y", "stock": 1, "price": 1}).answers(404)
	v.do("GET /api/inventory?category="+p.Category).shows(200, list{})
	v.do("POST /api/orders").as(ada).body(object{"items": list{object{"product_id": p.ID, "quantity": 1}}}).answers(422)
	v.do("GET /api/orders/"+o.ID).as(ada).answers(200, object{
		"items": list{object{"product_id": p.ID, "name": p.Name, "quantity": 2, "unit_price": 19.99}}, "total": 39.98, "stock": "TAKEN",
	})
	v.do("PUT /api/orders/" + o.ID + "/status").as(ada).body(object{"status": "CANCELLED"}).answers(200)
}
