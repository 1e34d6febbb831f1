package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	applycorev1 "k8s.io/client-go/applyconfigurations/core/v1"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/dynamic/dynamicinformer"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/openapi3"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/restmapper"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/events"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
	"k8s.io/client-go/tools/pager"
	"k8s.io/client-go/util/retry"
)

var configMaps = schema.GroupVersionResource{Version: "v1", Resource: "configmaps"}

func configMap(name string, data map[string]string) *corev1.ConfigMap {
	return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"of": name}}, Data: data}
}

// formats writes and watches in each format that a typed client may ask for.
func formats(ctx context.Context, t *tour) error {
	for name, kind := range map[string]string{"json": runtime.ContentTypeJSON, "protobuf": runtime.ContentTypeProtobuf} {
		config := rest.CopyConfig(t.config)
		config.ContentType, config.AcceptContentTypes = kind, kind+","+runtime.ContentTypeJSON
		client, err := kubernetes.NewForConfig(config)
		if err != nil {
			return err
		}
		if err := lifeOf(ctx, client, t.namespace, name); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}

// lifeOf leads a ConfigMap through its life and wants to see all of it in a watch.
func lifeOf(ctx context.Context, client kubernetes.Interface, namespace, name string) error {
	all := client.CoreV1().ConfigMaps(namespace)
	made, err := all.Create(ctx, configMap(name, map[string]string{"k": "1"}), metav1.CreateOptions{})
	if err != nil {
		return err
	}
	watch, err := all.Watch(ctx, metav1.ListOptions{FieldSelector: "metadata.name=" + name, ResourceVersion: made.ResourceVersion})
	if err != nil {
		return err
	}
	defer watch.Stop()
	stale := made.DeepCopy()
	made.Data["k"] = "2"
	if _, err := all.Update(ctx, made, metav1.UpdateOptions{}); err != nil {
		return err
	}
	if _, err := all.Update(ctx, stale, metav1.UpdateOptions{}); !apierrors.IsConflict(err) {
		return fmt.Errorf("a stale update: %v", err)
	}
	again := func() error {
		stale, err = all.Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		stale.BinaryData = map[string][]byte{"b": {0, 255}}
		_, err = all.Update(ctx, stale, metav1.UpdateOptions{})
		return err
	}
	if err := retry.RetryOnConflict(retry.DefaultRetry, again); err != nil {
		return err
	}
	if _, err := all.Patch(ctx, name, types.StrategicMergePatchType, []byte(`{"data":{"p":"3"}}`), metav1.PatchOptions{}); err != nil {
		return err
	}
	list, err := all.List(ctx, metav1.ListOptions{LabelSelector: "of=" + name})
	if err != nil || len(list.Items) != 1 || list.Items[0].Data["p"] != "3" || list.Items[0].BinaryData["b"][1] != 255 {
		return fmt.Errorf("list: %v, %w", list.Items, err)
	}
	if err := all.Delete(ctx, name, metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions("another")}); !apierrors.IsConflict(err) {
		return fmt.Errorf("the delete of another: %v", err)
	}
	if err := all.Delete(ctx, name, metav1.DeleteOptions{}); err != nil {
		return err
	}
	seen := ""
	for event := range watch.ResultChan() {
		seen += string(event.Type) + " "
		if event.Type == "DELETED" {
			break
		}
	}
	return expect("the watch", seen, "MODIFIED MODIFIED MODIFIED DELETED ")
}

// discovered finds resources by what people call them, and the document of a group.
func discovered(_ context.Context, t *tour) error {
	found, err := discovery.NewDiscoveryClientForConfig(t.config)
	if err != nil {
		return err
	}
	cached := memory.NewMemCacheClient(found)
	mapper := restmapper.NewShortcutExpander(restmapper.NewDeferredDiscoveryRESTMapper(cached), cached, nil)
	for short, resource := range map[string]string{"deploy": "deployments", "cm": "configmaps", "pvc": "persistentvolumeclaims", "netpol": "networkpolicies"} {
		got, err := mapper.ResourceFor(schema.GroupVersionResource{Resource: short})
		if err != nil {
			return err
		}
		if err := expect(short, got.Resource, resource); err != nil {
			return err
		}
	}
	mapping, err := mapper.RESTMapping(schema.GroupKind{Group: "batch", Kind: "CronJob"}, "v1")
	if err != nil || mapping.Resource.Resource != "cronjobs" {
		return fmt.Errorf("CronJob: %v, %w", mapping, err)
	}
	document, err := openapi3.NewRoot(found.OpenAPIV3()).GVSpec(schema.GroupVersion{Group: "apps", Version: "v1"})
	if err != nil || document.Components.Schemas["io.k8s.api.apps.v1.Deployment"] == nil {
		return fmt.Errorf("OpenAPI v3 of apps/v1: %w", err)
	}
	preferred, err := found.ServerPreferredNamespacedResources()
	if err != nil || len(preferred) < 10 {
		return fmt.Errorf("preferred resources: %d, %w", len(preferred), err)
	}
	return nil
}

// untyped reads and writes without Go types, and metadata alone.
func untyped(ctx context.Context, t *tour) error {
	client, err := dynamic.NewForConfig(t.config)
	if err != nil {
		return err
	}
	all := client.Resource(configMaps).Namespace(t.namespace)
	object := &unstructured.Unstructured{Object: map[string]any{"apiVersion": "v1", "kind": "ConfigMap", "metadata": map[string]any{"name": "untyped"}, "data": map[string]any{"a": "b"}}}
	if _, err := all.Create(ctx, object, metav1.CreateOptions{FieldValidation: metav1.FieldValidationStrict}); err != nil {
		return err
	}
	if _, err := all.Create(ctx, object, metav1.CreateOptions{}); !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("created twice: %v", err)
	}
	if _, err := all.Patch(ctx, "untyped", types.JSONPatchType, []byte(`[{"op":"test","path":"/data/a","value":"b"},{"op":"replace","path":"/data/a","value":"c"}]`), metav1.PatchOptions{}); err != nil {
		return err
	}
	factory := dynamicinformer.NewFilteredDynamicSharedInformerFactory(client, 0, t.namespace, nil)
	lister := factory.ForResource(configMaps).Lister()
	running, stop := context.WithCancel(ctx)
	defer stop()
	factory.Start(running.Done())
	factory.WaitForCacheSync(running.Done())
	cachedObject, err := lister.ByNamespace(t.namespace).Get("untyped")
	if err != nil {
		return err
	}
	value, _, err := unstructured.NestedString(cachedObject.(*unstructured.Unstructured).Object, "data", "a")
	if err != nil || value != "c" {
		return fmt.Errorf("the informer has %q, %w", value, err)
	}
	parts, err := metadata.NewForConfig(t.config)
	if err != nil {
		return err
	}
	partial, err := parts.Resource(configMaps).Namespace(t.namespace).Get(ctx, "untyped", metav1.GetOptions{})
	if err != nil || partial.Name != "untyped" || partial.UID == "" {
		return fmt.Errorf("metadata: %v, %w", partial, err)
	}
	return all.DeleteCollection(ctx, metav1.DeleteOptions{}, metav1.ListOptions{FieldSelector: "metadata.name=untyped"})
}

// applied has two managers quarrel, and one take back what it owns.
func applied(ctx context.Context, t *tour) error {
	all := t.client.CoreV1().ConfigMaps(t.namespace)
	of := func(data map[string]string) *applycorev1.ConfigMapApplyConfiguration {
		return applycorev1.ConfigMap("applied", t.namespace).WithData(data)
	}
	if _, err := all.Apply(ctx, of(map[string]string{"a": "1", "b": "1"}), metav1.ApplyOptions{FieldManager: "one"}); err != nil {
		return err
	}
	_, err := all.Apply(ctx, of(map[string]string{"a": "2"}), metav1.ApplyOptions{FieldManager: "two"})
	if status := apierrors.APIStatus(nil); !apierrors.IsConflict(err) || !errors.As(err, &status) || len(status.Status().Details.Causes) != 1 || status.Status().Details.Causes[0].Field != ".data.a" {
		return fmt.Errorf("no conflict over .data.a: %v", err)
	}
	forced, err := all.Apply(ctx, of(map[string]string{"a": "2"}), metav1.ApplyOptions{FieldManager: "two", Force: true})
	if err != nil {
		return err
	}
	own, err := applycorev1.ExtractConfigMap(forced, "one")
	if err != nil || len(own.Data) != 1 || own.Data["b"] != "1" {
		return fmt.Errorf("the first manager owns %v, %w", own.Data, err)
	}
	left, err := all.Apply(ctx, of(nil), metav1.ApplyOptions{FieldManager: "one"})
	if err != nil {
		return err
	}
	return expect("what is left", fmt.Sprint(left.Data), "map[a:2]")
}

// paged reads a list in pages, as of one moment.
func paged(ctx context.Context, t *tour) error {
	all := t.client.CoreV1().ConfigMaps(t.namespace)
	for i := range 7 {
		made := configMap(fmt.Sprintf("page-%d", i), nil)
		made.Labels = map[string]string{"paged": "yes"}
		if _, err := all.Create(ctx, made, metav1.CreateOptions{}); err != nil {
			return err
		}
	}
	pages, seen := 0, 0
	pages7 := pager.New(func(ctx context.Context, options metav1.ListOptions) (runtime.Object, error) {
		pages++
		if pages == 2 {
			if err := all.Delete(ctx, "page-6", metav1.DeleteOptions{}); err != nil {
				return nil, err
			}
		}
		return all.List(ctx, options)
	})
	pages7.PageSize = 3
	err := pages7.EachListItem(ctx, metav1.ListOptions{LabelSelector: "paged"}, func(runtime.Object) error { seen++; return nil })
	if err != nil {
		return err
	}
	return expect("pages and objects", fmt.Sprint(pages, seen), "3 7")
}

// informed has a shared informer see what is made, changed and deleted, with an index of its own.
func informed(ctx context.Context, t *tour) error {
	factory := informers.NewSharedInformerFactoryWithOptions(t.client, 0, informers.WithNamespace(t.namespace))
	informer := factory.Core().V1().ConfigMaps().Informer()
	if err := informer.AddIndexers(cache.Indexers{"data": func(o any) ([]string, error) { return []string{o.(*corev1.ConfigMap).Data["k"]}, nil }}); err != nil {
		return err
	}
	seen := make(chan string, 100)
	_, err := informer.AddEventHandler(cache.FilteringResourceEventHandler{
		FilterFunc: func(o any) bool {
			if gone, ok := o.(cache.DeletedFinalStateUnknown); ok {
				o = gone.Obj
			}
			return o.(*corev1.ConfigMap).Name == "informed"
		},
		Handler: cache.ResourceEventHandlerFuncs{
			AddFunc:    func(any) { seen <- "add" },
			UpdateFunc: func(_, _ any) { seen <- "update" },
			DeleteFunc: func(any) { seen <- "delete" },
		},
	})
	if err != nil {
		return err
	}
	running, stop := context.WithCancel(ctx)
	defer stop()
	factory.Start(running.Done())
	factory.WaitForCacheSync(running.Done())
	all := t.client.CoreV1().ConfigMaps(t.namespace)
	made, err := all.Create(ctx, configMap("informed", map[string]string{"k": "x"}), metav1.CreateOptions{})
	if err != nil {
		return err
	}
	if err := await(ctx, "the informer", seen, "add"); err != nil {
		return err
	}
	if hits, err := informer.GetIndexer().ByIndex("data", "x"); err != nil || len(hits) != 1 {
		return fmt.Errorf("the index has %d, %w", len(hits), err)
	}
	made.Data["k"] = "y"
	if _, err := all.Update(ctx, made, metav1.UpdateOptions{}); err != nil {
		return err
	}
	if err := await(ctx, "the informer", seen, "update"); err != nil {
		return err
	}
	if err := all.Delete(ctx, "informed", metav1.DeleteOptions{}); err != nil {
		return err
	}
	if err := await(ctx, "the informer", seen, "delete"); err != nil {
		return err
	}
	if left, err := factory.Core().V1().ConfigMaps().Lister().ConfigMaps(t.namespace).List(labels.SelectorFromSet(labels.Set{"of": "informed"})); err != nil || len(left) != 0 {
		return fmt.Errorf("the lister still has %d, %w", len(left), err)
	}
	return nil
}

// elected has a second candidate take over what the first releases.
func elected(ctx context.Context, t *tour) error {
	order := make(chan string, 4)
	candidate := func(ctx context.Context, name string) {
		leaderelection.RunOrDie(ctx, leaderelection.LeaderElectionConfig{
			Lock:            &resourcelock.LeaseLock{LeaseMeta: metav1.ObjectMeta{Namespace: t.namespace, Name: "leader"}, Client: t.client.CoordinationV1(), LockConfig: resourcelock.ResourceLockConfig{Identity: name}},
			ReleaseOnCancel: true,
			LeaseDuration:   2 * time.Second,
			RenewDeadline:   time.Second,
			RetryPeriod:     100 * time.Millisecond,
			Callbacks:       leaderelection.LeaderCallbacks{OnStartedLeading: func(context.Context) { order <- name }, OnStoppedLeading: func() {}},
		})
	}
	first, stopFirst := context.WithCancel(ctx)
	defer stopFirst()
	go candidate(first, "first")
	if err := await(ctx, "the leader", order, "first"); err != nil {
		return err
	}
	second, stopSecond := context.WithCancel(ctx)
	defer stopSecond()
	go candidate(second, "second")
	stopFirst()
	if err := await(ctx, "the leader", order, "second"); err != nil {
		return err
	}
	var lease *coordinationv1.Lease
	lease, err := t.client.CoordinationV1().Leases(t.namespace).Get(ctx, "leader", metav1.GetOptions{})
	if err != nil {
		return err
	}
	return expect("the lease's transitions", *lease.Spec.LeaseTransitions, 1)
}

// recorded tells an event twice and finds it in both APIs.
func recorded(ctx context.Context, t *tour) error {
	broadcaster := events.NewBroadcaster(&events.EventSinkImpl{Interface: t.client.EventsV1()})
	if err := broadcaster.StartRecordingToSinkWithContext(ctx); err != nil {
		return err
	}
	defer broadcaster.Shutdown()
	about, err := t.client.CoreV1().ConfigMaps(t.namespace).Create(ctx, configMap("eventful", nil), metav1.CreateOptions{})
	if err != nil {
		return err
	}
	recorder := broadcaster.NewRecorder(scheme.Scheme, "tour")
	for range 2 {
		recorder.Eventf(about, nil, corev1.EventTypeNormal, "Seen", "Look", "it was seen")
	}
	var found *eventsv1.EventList
	err = eventually(ctx, func() error {
		if found, err = t.client.EventsV1().Events(t.namespace).List(ctx, metav1.ListOptions{FieldSelector: "reason=Seen,regarding.name=eventful"}); err != nil {
			return err
		}
		if len(found.Items) == 0 {
			return errors.New("no event")
		}
		return nil
	})
	if err != nil {
		return err
	}
	old, err := t.client.CoreV1().Events(t.namespace).List(ctx, metav1.ListOptions{FieldSelector: "reason=Seen,involvedObject.name=eventful"})
	if err != nil || len(old.Items) != len(found.Items) {
		return fmt.Errorf("core/v1 has %d events of %d, %w", len(old.Items), len(found.Items), err)
	}
	return expect("its note", old.Items[0].Message, "it was seen")
}

// tokens lets a service account in, and not further than it may go.
func tokens(ctx context.Context, t *tour) error {
	if err := eventually(ctx, func() error {
		_, err := t.client.CoreV1().ServiceAccounts(t.namespace).Get(ctx, "default", metav1.GetOptions{})
		return err
	}); err != nil {
		return err
	}
	seconds := int64(600)
	request := &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{ExpirationSeconds: &seconds}}
	given, err := t.client.CoreV1().ServiceAccounts(t.namespace).CreateToken(ctx, "default", request, metav1.CreateOptions{})
	if err != nil {
		return err
	}
	config := rest.AnonymousClientConfig(t.config)
	config.BearerToken = given.Status.Token
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	if _, err := client.CoreV1().Secrets(t.namespace).List(ctx, metav1.ListOptions{}); !apierrors.IsForbidden(err) {
		return fmt.Errorf("it reads secrets: %v", err)
	}
	self, err := client.AuthenticationV1().SelfSubjectReviews().Create(ctx, &authenticationv1.SelfSubjectReview{}, metav1.CreateOptions{})
	if err != nil {
		return err
	}
	return expect("its name", self.Status.UserInfo.Username, "system:serviceaccount:"+t.namespace+":default")
}
