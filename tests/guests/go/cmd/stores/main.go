// Stores and edge data, by path and query; tests/guests/README.md is the contract that this program shares with its Rust
// and JavaScript twins.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/fastly/compute-sdk-go/acl"
	"github.com/fastly/compute-sdk-go/configstore"
	"github.com/fastly/compute-sdk-go/device"
	"github.com/fastly/compute-sdk-go/edgedict"
	"github.com/fastly/compute-sdk-go/erl"
	"github.com/fastly/compute-sdk-go/fsthttp"
	"github.com/fastly/compute-sdk-go/geo"
	"github.com/fastly/compute-sdk-go/kvstore"
	"github.com/fastly/compute-sdk-go/secretstore"
	"github.com/fastly/compute-sdk-go/shielding"
)

var errNone = errors.New("none")

var windows = map[uint32]erl.RateWindow{1: erl.RateWindow1s, 10: erl.RateWindow10s, 60: erl.RateWindow60s}

var durations = map[uint32]erl.CounterDuration{10: erl.CounterDuration10s, 20: erl.CounterDuration20s, 60: erl.CounterDuration60s}

func main() {
	fsthttp.ServeFunc(func(ctx context.Context, w fsthttp.ResponseWriter, r *fsthttp.Request) {
		body, err := behave(w, r, r.URL.Query())
		if err != nil {
			w.WriteHeader(status(err))
			body = err.Error()
		}
		io.WriteString(w, body)
	})
}

func status(err error) int {
	for err2, status := range map[error]int{
		errNone:                       404,
		configstore.ErrKeyNotFound:    404,
		edgedict.ErrKeyNotFound:       404,
		secretstore.ErrSecretNotFound: 404,
		acl.ErrNoContent:              404,
		device.ErrDeviceNotFound:      404,
		kvstore.ErrKeyNotFound:        404,
		kvstore.ErrStoreNotFound:      404,
		kvstore.ErrPreconditionFailed: 412,
		kvstore.ErrPayloadTooLarge:    413,
		kvstore.ErrTooManyRequests:    429,
		kvstore.ErrBadRequest:         400,
		kvstore.ErrInvalidKey:         400,
	} {
		if errors.Is(err, err2) {
			return status
		}
	}
	return 500
}

func number(q url.Values, name string, otherwise uint32) uint32 {
	if n, err := strconv.ParseUint(q.Get(name), 10, 32); err == nil {
		return uint32(n)
	}
	return otherwise
}

func behave(w fsthttp.ResponseWriter, r *fsthttp.Request, q url.Values) (string, error) {
	store, key := q.Get("store"), q.Get("key")
	ttl := time.Duration(number(q, "ttl", 60)) * time.Second
	delta := number(q, "delta", 1)
	switch r.URL.Path {
	case "/config":
		s, err := configstore.Open(store)
		if err != nil {
			return "", err
		}
		return s.Get(key)
	case "/dictionary":
		s, err := edgedict.Open(store)
		if err != nil {
			return "", err
		}
		return s.Get(key)
	case "/secret":
		b, err := secretstore.Plaintext(store, key)
		return string(b), err
	case "/acl":
		s, err := acl.Open(store)
		if err != nil {
			return "", err
		}
		found, err := s.Lookup(ip(q.Get("ip")))
		return found.Action + " " + found.Prefix, err
	case "/geo":
		g, err := geo.Lookup(ip(q.Get("ip")))
		if err != nil {
			return "", err
		}
		return fmt.Sprintf("%s %s %s %d", g.City, g.CountryCode, g.CountryCode3, g.AsNumber), nil
	case "/device":
		d, err := device.Lookup(q.Get("ua"))
		if err != nil {
			return "", err
		}
		return fmt.Sprintf("%s %s %t", d.Brand(), d.Model(), d.IsMobile()), nil
	case "/shield":
		s, err := shielding.ShieldFromName(store)
		if err != nil {
			return "", err
		}
		return fmt.Sprint(s.IsRunningOn()), nil
	case "/kv":
		return kv(w, r, q, store, key)
	case "/kv-list":
		s, err := kvstore.Open(store)
		if err != nil {
			return "", err
		}
		it := s.List(&kvstore.ListConfig{Prefix: q.Get("prefix"), Cursor: q.Get("cursor"), Limit: number(q, "limit", 100)})
		if !it.Next() {
			return "", it.Err()
		}
		w.Header().Set("x-next", it.Page().Meta.NextCursor)
		return strings.Join(it.Page().Data, ","), nil
	case "/check":
		limiter := erl.NewRateLimiter(erl.OpenRateCounter(q.Get("counter")), erl.OpenPenaltyBox(q.Get("box")))
		blocked, err := limiter.CheckRate(q.Get("entry"), delta, &erl.Policy{
			RateWindow:         windows[number(q, "window", 1)],
			MaxRate:            number(q, "limit", 10),
			PenaltyBoxDuration: ttl,
		})
		return fmt.Sprint(blocked), err
	case "/increment":
		return "ok", erl.OpenRateCounter(q.Get("counter")).Increment(q.Get("entry"), delta)
	case "/rate":
		n, err := erl.OpenRateCounter(q.Get("counter")).LookupRate(q.Get("entry"), windows[number(q, "window", 1)])
		return fmt.Sprint(n), err
	case "/count":
		n, err := erl.OpenRateCounter(q.Get("counter")).LookupCount(q.Get("entry"), durations[number(q, "window", 10)])
		return fmt.Sprint(n), err
	case "/penalize":
		return "ok", erl.OpenPenaltyBox(q.Get("box")).Add(q.Get("entry"), ttl)
	case "/penalized":
		is, err := erl.OpenPenaltyBox(q.Get("box")).Has(q.Get("entry"))
		return fmt.Sprint(is), err
	}
	return "", errNone
}

func ip(text string) net.IP {
	address := net.ParseIP(text)
	if four := address.To4(); four != nil {
		return four
	}
	return address
}

func kv(w fsthttp.ResponseWriter, r *fsthttp.Request, q url.Values, name, key string) (string, error) {
	store, err := kvstore.Open(name)
	if err != nil {
		return "", err
	}
	switch r.Method {
	case "DELETE":
		return "ok", store.Delete(key)
	case "PUT":
		modes := map[string]kvstore.InsertMode{
			"add": kvstore.InsertModeAdd, "append": kvstore.InsertModeAppend, "prepend": kvstore.InsertModePrepend,
		}
		config := &kvstore.InsertConfig{Mode: modes[q.Get("mode")], TTLSec: number(q, "ttl", 0)}
		if q.Has("metadata") {
			config.Metadata = []byte(q.Get("metadata"))
		}
		return "ok", store.InsertWithConfig(key, r.Body, config)
	}
	entry, err := store.Lookup(key)
	if err != nil {
		return "", err
	}
	w.Header().Set("x-metadata", string(entry.Meta()))
	w.Header().Set("x-generation", fmt.Sprint(entry.Generation()))
	_, err = io.Copy(w, entry)
	return "", err
}
