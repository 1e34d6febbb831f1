// Proves that knarr's binary stands in for the programs that controller-runtime's envtest starts: links named kube-apiserver, etcd
// and kubectl in one folder, no other change. Does what the unit tests of operators do, in several environments at once, and then
// looks for what was left behind. Usage: envtest ASSETS [AT_ONCE]
package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/controller-runtime/pkg/log/zap"
)

func main() {
	log.SetLogger(zap.New(zap.WriteTo(os.Stderr)))
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) < 1 {
		return errors.New("usage: envtest ASSETS [AT_ONCE]")
	}
	atOnce := 1
	if len(args) > 1 {
		n, err := strconv.Atoi(args[1])
		if err != nil {
			return err
		}
		atOnce = n
	}
	assets, err := filepath.Abs(args[0])
	if err != nil {
		return err
	}
	// Everything that is made in between must be made here.
	temp, err := os.MkdirTemp("", "envtest-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(temp)
	os.Setenv("TMPDIR", temp)

	if err := warmUp(assets); err != nil {
		return fmt.Errorf("the first environment: %w", err)
	}
	var wg sync.WaitGroup
	errs := make([]error, atOnce)
	ports := make([][]string, atOnce)
	for i := range atOnce {
		wg.Go(func() { ports[i], errs[i] = environment(assets, i) })
	}
	wg.Wait()
	for i, err := range errs {
		if err != nil {
			errs[i] = fmt.Errorf("environment %d: %w", i, err)
		}
	}
	errs = append(errs, leftovers(temp, ports))
	if err := errors.Join(errs...); err != nil {
		return err
	}
	fmt.Printf("%d environments passed\n", atOnce)
	return nil
}

// leftovers tells what is still there after everything was stopped: files, processes, open ports.
func leftovers(temp string, ports [][]string) error {
	var errs []error
	entries, err := os.ReadDir(temp)
	errs = append(errs, err)
	for _, entry := range entries {
		errs = append(errs, fmt.Errorf("a file was left behind: %s", entry.Name()))
	}
	children, err := children()
	errs = append(errs, err)
	for _, child := range children {
		errs = append(errs, fmt.Errorf("a process was left behind: %s", child))
	}
	for _, environment := range ports {
		for _, port := range environment {
			if connection, err := net.DialTimeout("tcp", port, time.Second); err == nil {
				connection.Close()
				errs = append(errs, fmt.Errorf("somebody still listens at %s", port))
			}
		}
	}
	return errors.Join(errs...)
}

// children are the processes that this one started and that have not ended, by their command lines.
func children() ([]string, error) {
	self := strconv.Itoa(os.Getpid())
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		return nil, err
	}
	var found []string
	for _, stat := range stats {
		text, err := os.ReadFile(stat)
		if err != nil {
			continue // It has ended meanwhile.
		}
		// "pid (name) state parent …", and the name may hold anything.
		_, rest, _ := strings.Cut(string(text[strings.LastIndexByte(string(text), ')'):]), " ")
		if fields := strings.Fields(rest); len(fields) > 1 && fields[1] == self {
			line, _ := os.ReadFile(filepath.Join(filepath.Dir(stat), "cmdline"))
			found = append(found, strings.ReplaceAll(string(line), "\x00", " "))
		}
	}
	return found, nil
}
