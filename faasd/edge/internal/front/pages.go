package front

import (
	"net/http"
)

const openAPIPath = "/api/openapi.json"

// page is something the door serves by itself.
type page struct {
	kind    string // media type
	etag    string
	content []byte
}

func loadPages(shopName string) (map[string]page, error) {
	return map[string]page{}, nil
}

func (d *Door) servePage(w http.ResponseWriter, r *http.Request) {
	http.NotFound(w, r)
}
