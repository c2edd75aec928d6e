// Many requests in one sandbox; tests/guests/README.md says what each path does.
package main

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/fastly/compute-sdk-go/fsthttp"
)

func main() {
	served := 0
	answer := func(ctx context.Context, w fsthttp.ResponseWriter, r *fsthttp.Request) {
		served++
		if r.URL.Path == "/wait" {
			n, _ := strconv.Atoi(r.URL.Query().Get("n"))
			time.Sleep(time.Duration(n) * time.Millisecond)
		}
		fmt.Printf("request %d\n", served)
		if id, err := r.FastlyMeta(); err == nil {
			w.Header().Set("x-id", id.RequestID)
		}
		fmt.Fprintf(w, "%d\n", served)
	}
	fsthttp.ServeMany(answer, &fsthttp.ServeManyOptions{NextTimeout: time.Minute})
}
