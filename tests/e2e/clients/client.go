// Go's own HTTP client with its defaults: `client URL BODY PAUSES_MS [KEY]`, a request after each pause, over kept
// connections. With KEY, each request has an Idempotency-Key that begins with it.
package main

import (
	"fmt"
	"io"
	"log"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"
)

func main() {
	url, body, pauses := os.Args[1], os.Args[2], strings.Split(os.Args[3], ",")
	client := &http.Client{Timeout: 40 * time.Second}
	for n, pause := range pauses {
		ms, err := strconv.Atoi(pause)
		if err != nil {
			log.Fatal(err)
		}
		time.Sleep(time.Duration(ms) * time.Millisecond)
		request, err := http.NewRequest(http.MethodPost, url, strings.NewReader(body))
		if err != nil {
			log.Fatal(err)
		}
		request.Header.Set("Content-Type", "application/json")
		if len(os.Args) > 4 {
			request.Header.Set("Idempotency-Key", fmt.Sprintf("%s-%d", os.Args[4], n))
		}
		response, err := client.Do(request)
		if err != nil {
			log.Fatal(err)
		}
		text, err := io.ReadAll(response.Body) // to its end; otherwise the connection is not reused
		response.Body.Close()
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(response.StatusCode, response.Proto, strings.TrimSpace(string(text)))
	}
}
