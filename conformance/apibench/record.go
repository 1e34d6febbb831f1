package main

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
)

// recorder keeps the first answer to each kind of request about ConfigMaps, as it came over the wire, for a server to give the same again that
// does nothing else. A watch's answer ends where the driver stopped it.
type recorder struct {
	next   http.RoundTripper
	folder string
	mu     sync.Mutex
	known  map[string]bool
}

// answerHead stands beside the body, in NAME.json.
type answerHead struct {
	Status   int    `json:"status"`
	Type     string `json:"type"`
	Encoding string `json:"encoding,omitempty"`
}

func newRecorder(next http.RoundTripper, folder string) http.RoundTripper {
	check(os.MkdirAll(folder, 0o755))
	return &recorder{next: next, folder: folder, known: map[string]bool{}}
}

// kindOf names what a request asks for; "" for what is not recorded.
func kindOf(r *http.Request) string {
	if !strings.Contains(r.URL.Path, "/configmaps") {
		return ""
	}
	query := r.URL.Query()
	switch {
	case r.Method == http.MethodGet && query.Get("watch") != "":
		return "watch"
	case r.Method == http.MethodGet && query.Get("labelSelector") != "":
		return "listselector"
	case r.Method == http.MethodGet && strings.HasSuffix(r.URL.Path, "/configmaps"):
		return "list"
	case r.Method == http.MethodPut && strings.HasSuffix(r.URL.Path, "/fanout"):
		return "fanout"
	}
	return map[string]string{http.MethodPost: "create", http.MethodGet: "get", http.MethodPut: "update", http.MethodDelete: "delete"}[r.Method]
}

func (r *recorder) RoundTrip(request *http.Request) (*http.Response, error) {
	kind := kindOf(request)
	if kind != "" && kind != "watch" {
		// Else the transport would ask for gzip by itself, and hide that it came.
		request = request.Clone(request.Context())
		request.Header.Set("Accept-Encoding", "gzip")
	}
	response, err := r.next.RoundTrip(request)
	if err != nil || kind == "" || response.StatusCode >= 300 || !r.isNew(kind) {
		return unpacked(response, err)
	}
	head := answerHead{response.StatusCode, response.Header.Get("Content-Type"), response.Header.Get("Content-Encoding")}
	if kind == "watch" {
		response.Body = &tee{ReadCloser: response.Body, closed: func(body []byte) { r.save(kind, head, body) }}
		return response, nil
	}
	body, err := io.ReadAll(response.Body)
	if err != nil {
		return nil, err
	}
	_ = response.Body.Close()
	r.save(kind, head, body)
	response.Body = io.NopCloser(bytes.NewReader(body))
	return unpacked(response, nil)
}

func (r *recorder) isNew(kind string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	defer func() { r.known[kind] = true }()
	return !r.known[kind]
}

func (r *recorder) save(kind string, head answerHead, body []byte) {
	text, err := json.Marshal(head)
	check(err)
	check(os.WriteFile(filepath.Join(r.folder, kind+".json"), text, 0o644))
	check(os.WriteFile(filepath.Join(r.folder, kind+".body"), body, 0o644))
}

// unpacked gives the answer as the client wants it.
func unpacked(response *http.Response, err error) (*http.Response, error) {
	if err != nil || response.Header.Get("Content-Encoding") != "gzip" {
		return response, err
	}
	body, err := gzip.NewReader(response.Body)
	if err != nil {
		return nil, err
	}
	response.Header.Del("Content-Encoding")
	response.Body = struct {
		io.Reader
		io.Closer
	}{body, response.Body}
	return response, nil
}

// tee keeps what was read until it is closed.
type tee struct {
	io.ReadCloser
	mu     sync.Mutex
	kept   bytes.Buffer
	closed func([]byte)
	once   sync.Once
}

func (t *tee) Read(into []byte) (int, error) {
	n, err := t.ReadCloser.Read(into)
	t.mu.Lock()
	defer t.mu.Unlock()
	t.kept.Write(into[:n])
	return n, err
}

func (t *tee) Close() error {
	err := t.ReadCloser.Close()
	t.mu.Lock()
	defer t.mu.Unlock()
	t.once.Do(func() { t.closed(t.kept.Bytes()) })
	return err
}
