// The smallest program worth serving: one fixed answer.
package main

import (
	"context"
	"io"

	"github.com/fastly/compute-sdk-go/fsthttp"
)

func main() {
	fsthttp.ServeFunc(func(_ context.Context, w fsthttp.ResponseWriter, _ *fsthttp.Request) {
		w.Header().Set("content-type", "text/plain")
		io.WriteString(w, "Hello, world!\n")
	})
}
