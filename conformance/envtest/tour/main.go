// A client-go program that does with a cluster what programs written against the real Kubernetes do: typed clients in JSON and protobuf,
// dynamic and metadata clients, discovery, informers, server-side apply, leader election, events, scaling, eviction, tokens, and streams
// into a pod over both protocols. Usage: tour KUBECONFIG (the nodes have the image knarr.local/tools:1)
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// patience is how long a step may take, and anything that is waited for.
const patience = 60 * time.Second

// tour is what every step has: a namespace of its own and ways to reach it.
type tour struct {
	config    *rest.Config
	client    kubernetes.Interface
	namespace string
}

type step struct {
	name string
	run  func(context.Context, *tour) error
}

var steps = []step{
	{"typed clients in JSON and protobuf", formats},
	{"discovery and names of resources", discovered},
	{"dynamic and metadata clients", untyped},
	{"server-side apply with typed configurations", applied},
	{"pages of a list", paged},
	{"informers", informed},
	{"leader election", elected},
	{"recorded events", recorded},
	{"a token for a service account", tokens},
	{"scaling through the scale client", scaled},
	{"a pod until it is ready", ready},
	{"commands in a container", commands},
	{"logs that go on", followed},
	{"eviction and its budget", evicted},
	{"a namespace that goes", gone},
}

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: tour KUBECONFIG")
		os.Exit(2)
	}
	if err := run(os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(kubeconfig string) error {
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return err
	}
	config.QPS, config.Burst = 500, 500
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	ctx := context.Background()
	made, err := client.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "tour-"}}, metav1.CreateOptions{})
	if err != nil {
		return fmt.Errorf("a namespace: %w", err)
	}
	t := &tour{config, client, made.Name}
	var errs []error
	for _, s := range steps {
		limited, cancel := context.WithTimeout(ctx, patience)
		begun := time.Now()
		if err := s.run(limited, t); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", s.name, err))
		} else {
			fmt.Printf("%s: %d ms\n", s.name, time.Since(begun).Milliseconds())
		}
		cancel()
	}
	return errors.Join(errs...)
}

// eventually asks again until it gets no error, or the step's time is over.
func eventually(ctx context.Context, ask func() error) error {
	for {
		err := ask()
		if err == nil || ctx.Err() != nil {
			return err
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func expect[T comparable](what string, got, wanted T) error {
	if got != wanted {
		return fmt.Errorf("%s: got %v, wanted %v", what, got, wanted)
	}
	return nil
}

// await takes what comes next, which must be what is wanted, before the step's time is over.
func await(ctx context.Context, what string, from <-chan string, wanted string) error {
	select {
	case got := <-from:
		return expect(what, got, wanted)
	case <-ctx.Done():
		return fmt.Errorf("%s: waited in vain for %s", what, wanted)
	}
}
