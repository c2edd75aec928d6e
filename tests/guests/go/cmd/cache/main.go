// The cache, by path and query; tests/guests/README.md is the contract that this program shares with its Rust and
// JavaScript twins. Built twice: as it is, and with the SDK's own HTTP cache, without which the SDK refuses what
// x-test-after asks for.
package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/fastly/compute-sdk-go/cache/core"
	"github.com/fastly/compute-sdk-go/cache/simple"
	"github.com/fastly/compute-sdk-go/fsthttp"
	"github.com/fastly/compute-sdk-go/purge"
)

func main() {
	fsthttp.ServeFunc(func(ctx context.Context, w fsthttp.ResponseWriter, r *fsthttp.Request) {
		switch err := behave(ctx, w, r, r.URL.Query()); {
		case errors.Is(err, core.ErrNotFound):
			text(w, fsthttp.StatusNotFound, "none")
		case err != nil:
			text(w, fsthttp.StatusInternalServerError, err.Error())
		}
	})
}

// behave returns an error only while nothing of the response has been sent.
func behave(ctx context.Context, w fsthttp.ResponseWriter, r *fsthttp.Request, q url.Values) error {
	key := []byte(q.Get("key"))
	lookup := core.LookupOptions{RequestHeaders: r.Header}
	switch path := r.URL.Path; {
	case strings.HasPrefix(path, "/plain/"), strings.HasPrefix(path, "/guest/"):
		return send(ctx, w, r)
	case path == "/core/range":
		lookup.From, lookup.To = uint64(number(q, "from", 0)), uint64(number(q, "to", 0))
		fallthrough
	case path == "/core/get":
		found, err := core.Lookup(key, lookup)
		if err != nil {
			return err
		}
		return show(w, found)
	case path == "/core/set":
		options := writeOptions(q)
		options.RequestHeaders = r.Header
		body, err := core.Insert(key, options)
		if err != nil {
			return err
		}
		return done(w, write(body, r.Body))
	case path == "/core/fill":
		return fill(w, q, key, lookup)
	case path == "/core/cancel":
		tx, err := core.NewTransaction(key, core.LookupOptions{})
		if err != nil {
			return err
		}
		defer tx.Close()
		if !tx.MustInsertOrUpdate() {
			text(w, fsthttp.StatusOK, "found")
			return nil
		}
		if err := tx.Cancel(); err != nil {
			return err
		}
		text(w, fsthttp.StatusOK, "cancelled")
		return nil
	case path == "/simple":
		body, err := simple.GetOrSetEntry(key, simple.CacheEntry{Body: strings.NewReader(q.Get("value")), TTL: seconds(q, "ttl", 60)})
		if err != nil {
			return err
		}
		value, err := io.ReadAll(body)
		if err != nil {
			return err
		}
		text(w, fsthttp.StatusOK, string(value))
		return nil
	case path == "/simple/purge":
		return done(w, simple.Purge(key, simple.PurgeOptions{}))
	case path == "/purge":
		return done(w, purge.PurgeSurrogateKey(string(key), purge.PurgeOptions{Soft: q.Has("soft")}))
	}
	text(w, fsthttp.StatusNotFound, "no such behaviour\n")
	return nil
}

func text(w fsthttp.ResponseWriter, status int, body string) {
	w.Header().Set("Content-Type", "text/plain")
	w.WriteHeader(status)
	io.WriteString(w, body)
}

func done(w fsthttp.ResponseWriter, err error) error {
	if err == nil {
		text(w, fsthttp.StatusOK, "ok")
	}
	return err
}

func number(q url.Values, name string, otherwise uint32) uint32 {
	if n, err := strconv.ParseUint(q.Get(name), 10, 32); err == nil {
		return uint32(n)
	}
	return otherwise
}

func seconds(q url.Values, name string, otherwise uint32) time.Duration {
	return time.Duration(number(q, name, otherwise)) * time.Second
}

func writeOptions(q url.Values) core.WriteOptions {
	options := core.WriteOptions{
		TTL:                  seconds(q, "ttl", 60),
		InitialAge:           seconds(q, "age", 0),
		StaleWhileRevalidate: seconds(q, "swr", 0),
		SurrogateKeys:        strings.Fields(q.Get("keys")),
		Length:               uint64(number(q, "length", 0)),
		UserMetadata:         []byte(q.Get("meta")),
	}
	if q.Has("vary") {
		options.Vary = []string{q.Get("vary")}
	}
	return options
}

// write fills an object, or gives it up when there is no more to fill it with.
func write(body core.WriteCloseAbandoner, from io.Reader) error {
	if _, err := io.Copy(body, from); err != nil {
		body.Abandon()
		return err
	}
	return body.Close()
}

func show(w fsthttp.ResponseWriter, found *core.Found) error {
	meta, err := found.UserMetadata()
	if err != nil {
		return err
	}
	state, length := "usable", "none"
	if found.Stale() {
		state = "stale"
	}
	// The SDK has 0 for a length that is not known.
	if found.Length > 0 {
		length = fmt.Sprint(found.Length)
	}
	h := w.Header()
	h.Set("Content-Type", "text/plain")
	h.Set("X-State", state)
	h.Set("X-Age", fmt.Sprint(int64(found.Age/time.Second)))
	h.Set("X-Max-Age", fmt.Sprint(int64(found.TTL/time.Second)))
	h.Set("X-Swr", fmt.Sprint(int64(found.StaleWhileRevalidate/time.Second)))
	h.Set("X-Hits", fmt.Sprint(found.Hits))
	h.Set("X-Length", length)
	h.Set("X-Meta", string(meta))
	w.WriteHeader(fsthttp.StatusOK)
	follow(w, found.Body)
	return nil
}

// follow copies a body behind a head that is already out: only a panic can still tell the client of an error.
func follow(w io.Writer, body io.Reader) {
	if _, err := io.Copy(w, body); err != nil {
		panic(err)
	}
}

func fill(w fsthttp.ResponseWriter, q url.Values, key []byte, lookup core.LookupOptions) error {
	tx, err := core.NewTransaction(key, lookup)
	if err != nil {
		return err
	}
	defer tx.Close()
	if !tx.MustInsertOrUpdate() {
		found, err := tx.Found()
		if err != nil {
			return fmt.Errorf("neither found nor asked: %v", err)
		}
		w.Header().Set("X-Who", "found")
		return show(w, found)
	}
	time.Sleep(time.Duration(number(q, "ms", 0)) * time.Millisecond)
	if q.Has("update") && !tx.MustInsert() {
		if err := tx.Update(writeOptions(q)); err != nil {
			return err
		}
		w.Header().Set("X-Who", "updated")
		text(w, fsthttp.StatusOK, "updated")
		return nil
	}
	body, back, err := tx.InsertAndStreamBack(writeOptions(q))
	if err != nil {
		return err
	}
	if err := write(body, strings.NewReader("filled by "+q.Get("who"))); err != nil {
		return err
	}
	w.Header().Set("X-Who", "filled")
	return show(w, back)
}

func send(ctx context.Context, w fsthttp.ResponseWriter, r *fsthttp.Request) error {
	out := r.CloneWithBody(r.Body)
	take := func(name string) (string, bool) {
		value, asked := out.Header.Get("x-test-"+name), out.Header.Values("x-test-"+name) != nil
		out.Header.Del("x-test-" + name)
		return value, asked
	}
	takeSeconds := func(name string) uint32 {
		value, _ := take(name)
		n, _ := strconv.ParseUint(value, 10, 32)
		return uint32(n)
	}
	options := fsthttp.CacheOptions{TTL: takeSeconds("ttl"), StaleWhileRevalidate: takeSeconds("swr")}
	options.SurrogateKey, _ = take("keys")
	_, options.PCI = take("pci")
	if after, asked := take("after"); asked {
		options.AfterSend = afterSend(after)
	}
	if _, asked := take("pass"); asked {
		options = fsthttp.CacheOptions{Pass: true}
	}
	if key, asked := take("cache-key"); asked {
		hash := sha256.Sum256([]byte(key))
		options.OverrideKey = string(hash[:])
	}
	out.CacheOptions = options
	resp, err := out.Send(ctx, "origin")
	if err != nil {
		text(w, fsthttp.StatusBadGateway, fmt.Sprintf("error: %v", err))
		return nil
	}
	w.Header().Reset(resp.Header)
	w.WriteHeader(resp.StatusCode)
	// What a transform makes of a body that is not kept is the program's own, which the SDK does not append.
	if w.Append(resp.Body) != nil {
		follow(w, resp.Body)
	}
	return nil
}

func afterSend(asked string) func(*fsthttp.CandidateResponse) error {
	return func(candidate *fsthttp.CandidateResponse) error {
		if ttl, is := strings.CutPrefix(asked, "ttl="); is {
			n, err := strconv.ParseUint(ttl, 10, 32)
			if err != nil {
				return err
			}
			candidate.SetTTL(uint32(n))
		}
		switch asked {
		case "uncacheable":
			candidate.SetUncacheableDisableCollapsing()
		case "fail-on-5xx":
			status, err := candidate.Status()
			if err != nil {
				return err
			}
			if status >= 500 {
				return fmt.Errorf("the origin says %d", status)
			}
		case "upper":
			candidate.SetBodyTransform(upper)
		}
		return nil
	}
}

func upper(from io.ReadCloser) io.ReadCloser {
	reader, writer := io.Pipe()
	go func() {
		body, err := io.ReadAll(from)
		if err == nil {
			_, err = writer.Write(bytes.ToUpper(body))
		}
		writer.CloseWithError(err)
	}()
	return reader
}
