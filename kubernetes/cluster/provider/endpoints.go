package main

import (
	"fmt"
	"math/rand/v2"
	"net/url"
	"strings"
	"time"

	discovery "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/labels"
	listers "k8s.io/client-go/listers/discovery/v1"
)

// endpoints resolves functions to pods. It is a proxy.BaseURLResolver.
type endpoints struct {
	lister    listers.EndpointSliceLister
	namespace string
}

// Resolve returns the address of one of the function's ready pods. It fails if there is
// none.
func (e *endpoints) Resolve(name string) (url.URL, error) {
	name = strings.TrimSuffix(name, "."+e.namespace)
	slices, err := e.lister.EndpointSlices(e.namespace).List(labels.SelectorFromSet(labels.Set{discovery.LabelServiceName: name}))
	if err != nil {
		return url.URL{}, err
	}
	var ready []string
	for _, slice := range slices {
		for _, endpoint := range slice.Endpoints {
			if endpoint.Conditions.Ready != nil && *endpoint.Conditions.Ready && len(endpoint.Addresses) > 0 {
				ready = append(ready, endpoint.Addresses[0])
			}
		}
	}
	if len(ready) == 0 {
		return url.URL{}, fmt.Errorf("no pod of %s is ready", name)
	}
	return url.URL{Scheme: "http", Host: fmt.Sprintf("%s:%d", ready[rand.IntN(len(ready))], port)}, nil
}

// cut splits a log line into its time and its text.
func cut(line string) (at time.Time, text string, ok bool) {
	stamp, text, ok := strings.Cut(line, " ")
	if !ok {
		return at, line, false
	}
	at, err := time.Parse(time.RFC3339Nano, stamp)
	return at, text, err == nil
}
