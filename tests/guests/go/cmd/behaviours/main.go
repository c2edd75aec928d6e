// One behaviour for each path; tests/guests/README.md is the contract that this program shares with
// its Rust and JavaScript twins.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"sort"
	"strconv"
	"strings"
	"time"

	"github.com/fastly/compute-sdk-go/fsthttp"
	"github.com/fastly/compute-sdk-go/rtlog"
)

type target struct{ backend, url string }

var fanoutTargets = []target{
	{"one", "http://one/a"},
	{"two", "http://two/b"},
	{"three", "http://three/c"},
}

var environmentNames = []string{
	"FASTLY_CACHE_GENERATION",
	"FASTLY_CUSTOMER_ID",
	"FASTLY_HOSTNAME",
	"FASTLY_IS_STAGING",
	"FASTLY_NAMESPACE_ID",
	"FASTLY_POP",
	"FASTLY_REGION",
	"FASTLY_SERVICE_ID",
	"FASTLY_SERVICE_VERSION",
	"FASTLY_TRACE_ID",
}

func main() {
	fsthttp.ServeFunc(func(ctx context.Context, w fsthttp.ResponseWriter, r *fsthttp.Request) {
		if err := behave(ctx, w, r); err != nil {
			backendError(w, err)
		}
	})
}

// behave returns an error only while nothing of the response has been sent.
func behave(ctx context.Context, w fsthttp.ResponseWriter, r *fsthttp.Request) error {
	path := r.URL.Path
	switch {
	case path == "/synthetic":
		synthetic(w)
	case strings.HasPrefix(path, "/echo"):
		return echo(w, r)
	case strings.HasPrefix(path, "/pass/"):
		return pass(ctx, w, r)
	case path == "/stream":
		stream(w, r)
	case path == "/fanout":
		return fanout(ctx, w)
	case path == "/fanout-first":
		return fanoutFirst(ctx, w)
	case path == "/log":
		return log(w, r)
	case path == "/env":
		return environment(w)
	case path == "/client":
		text(w, fsthttp.StatusOK, r.RemoteAddr+"\n")
	case path == "/upload-async" && r.Method == fsthttp.MethodPost:
		return upload(ctx, w, r)
	default:
		text(w, fsthttp.StatusNotFound, "no such behaviour\n")
	}
	return nil
}

func text(w fsthttp.ResponseWriter, status int, body string) {
	w.Header().Set("Content-Type", "text/plain")
	w.WriteHeader(status)
	io.WriteString(w, body)
}

func writeJSON(w fsthttp.ResponseWriter, value any) error {
	body, err := json.Marshal(value)
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(fsthttp.StatusOK)
	_, err = w.Write(body)
	return err
}

func backendError(w fsthttp.ResponseWriter, err error) {
	short := err.Error()
	var cause fsthttp.SendError
	if errors.As(err, &cause) {
		short = cause.String()
	}
	w.Header().Set("X-Error", short)
	text(w, fsthttp.StatusBadGateway, fmt.Sprintf("backend error: %v\n", err))
}

func synthetic(w fsthttp.ResponseWriter) {
	w.Header().Set("X-Guest", "go")
	w.Header().Add("X-Multi", "one")
	w.Header().Add("X-Multi", "two")
	text(w, fsthttp.StatusTeapot, "a synthetic response\n")
}

func echo(w fsthttp.ResponseWriter, r *fsthttp.Request) error {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return err
	}
	headers := [][2]string{}
	for _, key := range r.Header.Keys() {
		for _, value := range r.Header.Values(key) {
			headers = append(headers, [2]string{strings.ToLower(key), value})
		}
	}
	// By name only: lines that share a name stay in the order they came in.
	sort.SliceStable(headers, func(i, j int) bool { return headers[i][0] < headers[j][0] })
	return writeJSON(w, map[string]any{
		"method":   r.Method,
		"url":      r.URL.String(),
		"headers":  headers,
		"body_len": len(body),
		"body":     string(body),
	})
}

func pass(ctx context.Context, w fsthttp.ResponseWriter, r *fsthttp.Request) error {
	out := r.CloneWithBody(r.Body)
	out.URL.Path = strings.TrimPrefix(out.URL.Path, "/pass")
	out.URL.RawPath = strings.TrimPrefix(out.URL.RawPath, "/pass")
	out.CacheOptions.Pass = true
	resp, err := out.Send(ctx, "origin")
	if err != nil {
		return err
	}
	return answerWith(w, resp)
}

func answerWith(w fsthttp.ResponseWriter, resp *fsthttp.Response) error {
	w.Header().Reset(resp.Header)
	w.WriteHeader(resp.StatusCode)
	return w.Append(resp.Body)
}

func stream(w fsthttp.ResponseWriter, r *fsthttp.Request) {
	query := r.URL.Query()
	pieces := number(query, "n", 5)
	pause := time.Duration(number(query, "ms", 100)) * time.Millisecond
	w.Header().Set("Content-Type", "text/plain")
	w.WriteHeader(fsthttp.StatusOK)
	for i := range pieces {
		if i > 0 {
			time.Sleep(pause)
		}
		// The SDK does not buffer: every write is a call to the host.
		if _, err := fmt.Fprintf(w, "piece %d\n", i); err != nil {
			return
		}
	}
}

func number(query url.Values, name string, fallback int) int {
	value, err := strconv.ParseUint(query.Get(name), 10, 31)
	if err != nil {
		return fallback
	}
	return int(value)
}

type result struct {
	body []byte
	err  error
}

// sendAll starts all three requests. Send puts its goroutine to sleep as soon as the request is on
// its way, so that each of the others is sent before the first is asked for its answer again.
func sendAll(ctx context.Context, each func(i int, r result)) {
	for i, target := range fanoutTargets {
		go func() {
			body, err := get(ctx, target)
			each(i, result{body, err})
		}()
	}
}

func get(ctx context.Context, target target) ([]byte, error) {
	req, err := fsthttp.NewRequest(fsthttp.MethodGet, target.url, nil)
	if err != nil {
		return nil, err
	}
	req.CacheOptions.Pass = true
	resp, err := req.Send(ctx, target.backend)
	if err != nil {
		return nil, err
	}
	return io.ReadAll(resp.Body)
}

func fanout(ctx context.Context, w fsthttp.ResponseWriter) error {
	answers := make([]chan result, len(fanoutTargets))
	for i := range answers {
		answers[i] = make(chan result, 1)
	}
	sendAll(ctx, func(i int, r result) { answers[i] <- r })
	bodies := make([]string, len(answers))
	for i, answer := range answers {
		r := <-answer
		if r.err != nil {
			return r.err
		}
		bodies[i] = string(r.body)
	}
	text(w, fsthttp.StatusOK, strings.Join(bodies, ","))
	return nil
}

func fanoutFirst(ctx context.Context, w fsthttp.ResponseWriter) error {
	finished := make(chan result, len(fanoutTargets))
	sendAll(ctx, func(_ int, r result) { finished <- r })
	first := <-finished
	if first.err != nil {
		return first.err
	}
	text(w, fsthttp.StatusOK, string(first.body))
	return nil
}

func log(w fsthttp.ResponseWriter, r *fsthttp.Request) error {
	message := r.URL.Query().Get("msg")
	if _, err := io.WriteString(rtlog.Open("events"), message); err != nil {
		return err
	}
	fmt.Fprintf(os.Stdout, "stdout: %s\n", message)
	fmt.Fprintf(os.Stderr, "stderr: %s\n", message)
	text(w, fsthttp.StatusOK, "logged\n")
	return nil
}

func environment(w fsthttp.ResponseWriter) error {
	set := map[string]string{}
	for _, name := range environmentNames {
		if value := os.Getenv(name); value != "" {
			set[name] = value
		}
	}
	return writeJSON(w, set)
}

// upload forwards the body as it arrives while the request is already under way. The wrapper hides
// that the body is one of the host's own, which the SDK would hand over whole.
func upload(ctx context.Context, w fsthttp.ResponseWriter, r *fsthttp.Request) error {
	body := struct{ io.Reader }{r.Body}
	out, err := fsthttp.NewRequest(fsthttp.MethodPost, "http://origin/upload", body)
	if err != nil {
		return err
	}
	out.CacheOptions.Pass = true
	resp, err := out.Send(ctx, "origin")
	if err != nil {
		return err
	}
	return answerWith(w, resp)
}
