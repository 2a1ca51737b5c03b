package rest

import (
	"context"
	"net/http"

	kiosk "github.com/kiosk-shop/kiosk/shared"
)

// Limit counts a request of key, and refuses it with KindTooMany where there
// were too many. It gives nil for no limit.
type Limit func(ctx context.Context, key string) (*kiosk.Limit, error)

// Count counts a request of key, of nobody where it is empty; the header fields, which tell the client
// where it stands, go into the answer.
func (l Limit) Count(ctx context.Context, key string) (http.Header, error) {
	header := http.Header{}
	if key == "" {
		return header, nil
	}
	limit, err := l(ctx, key)
	if limit != nil {
		setLimit(header, *limit)
	}
	return header, err
}
