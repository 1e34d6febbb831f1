// Writes down what Kubernetes' parsers say of the inputs of JSONTestSuite and of the YAML test suite: one line of JSON for each
// input, with the value that comes out or the error. The lines lie in tests/suites, where our parsers are asked the same.
//
//	go run . json FOLDER-OF-JSONTestSuite >../../tests/suites/json.jsonl
//	go run . yaml FOLDER-OF-yaml-test-suite >../../tests/suites/yaml.jsonl
package main

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"log"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	kjson "sigs.k8s.io/json"
	"sigs.k8s.io/yaml"
)

type line struct {
	Name string `json:"name"`
	// Base64; repeated so many times, with a line's end after it.
	Input string          `json:"input"`
	Times int             `json:"times,omitempty"`
	Value json.RawMessage `json:"value,omitempty"`
	Error string          `json:"error,omitempty"`
}

func main() {
	if len(os.Args) != 3 {
		log.Fatal("usage: suites json|yaml FOLDER")
	}
	switch os.Args[1] {
	case "json":
		jsonSuite(os.Args[2])
	case "yaml":
		yamlSuite(os.Args[2])
	}
}

func write(l line) {
	out := json.NewEncoder(os.Stdout)
	out.SetEscapeHTML(false)
	if err := out.Encode(l); err != nil {
		log.Fatal(err)
	}
}

func jsonSuite(folder string) {
	for _, part := range []string{"test_parsing", "test_transform"} {
		files, err := filepath.Glob(filepath.Join(folder, part, "*.json"))
		if err != nil || len(files) == 0 {
			log.Fatalf("nothing in %s: %v", folder, err)
		}
		for _, file := range files {
			data, err := os.ReadFile(file)
			if err != nil {
				log.Fatal(err)
			}
			l := line{Name: filepath.Base(file), Input: base64.StdEncoding.EncodeToString(data)}
			for _, unit := range []string{"[", "[{\"\":"} {
				if times := strings.Count(string(data), unit); len(data) > 10000 && strings.TrimSpace(string(data)) == strings.Repeat(unit, times) {
					l.Input, l.Times = base64.StdEncoding.EncodeToString([]byte(unit)), times
				}
			}
			var value any
			if err := kjson.UnmarshalCaseSensitivePreserveInts(data, &value); err != nil {
				l.Error = err.Error()
			} else {
				l.Value = marshal(value)
			}
			write(l)
		}
	}
}

func marshal(value any) []byte {
	var text bytes.Buffer
	out := json.NewEncoder(&text)
	out.SetEscapeHTML(false)
	if err := out.Encode(value); err != nil {
		log.Fatal(err)
	}
	return bytes.TrimSpace(text.Bytes())
}

// Cases in one file follow each other, and a later one has what it does not say from the one before.
func yamlSuite(folder string) {
	files, err := filepath.Glob(filepath.Join(folder, "src", "*.yaml"))
	if err != nil || len(files) == 0 {
		log.Fatalf("nothing in %s: %v", folder, err)
	}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			log.Fatal(err)
		}
		var cases []map[string]any
		if err := yaml.Unmarshal(data, &cases); err != nil {
			log.Fatalf("%s: %v", file, err)
		}
		for i, c := range cases {
			text, ok := c["yaml"].(string)
			if !ok {
				continue
			}
			input := shown(text)
			l := line{Name: fmt.Sprintf("%s-%d", strings.TrimSuffix(filepath.Base(file), ".yaml"), i), Input: base64.StdEncoding.EncodeToString(input)}
			if value, err := convert(input); err != nil {
				l.Error = err.Error()
			} else {
				l.Value = value
			}
			write(l)
		}
	}
}

func convert(input []byte) (value []byte, err error) {
	defer func() {
		if why := recover(); why != nil {
			err = fmt.Errorf("panic: %v", why)
		}
	}()
	return yaml.YAMLToJSON(input)
}

var tab = regexp.MustCompile("—*»")

// The suite writes white space so that it can be seen.
func shown(text string) []byte {
	text = tab.ReplaceAllString(text, "\t")
	for from, to := range map[string]string{"␣": " ", "↵": "", "⇔": "\ufeff", "←": "\r"} {
		text = strings.ReplaceAll(text, from, to)
	}
	if cut, ok := strings.CutSuffix(text, "∎\n"); ok {
		text = cut
	}
	return []byte(text)
}
