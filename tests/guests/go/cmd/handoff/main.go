// Hands clients to backends; tests/guests/README.md says what each path does.
package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/fastly/compute-sdk-go/fsthttp"
	"github.com/fastly/compute-sdk-go/x/exp/handoff"
)

func main() {
	fsthttp.ServeFunc(func(ctx context.Context, w fsthttp.ResponseWriter, r *fsthttp.Request) {
		fmt.Printf("upgrade: %q\n", r.Header.Get("upgrade"))
		how, backend, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
		hand := handoff.Websocket
		if how == "grip" {
			hand = handoff.Fanout
		}
		if err := hand(backend); err != nil {
			w.WriteHeader(418)
			fmt.Fprint(w, err)
		}
	})
}
