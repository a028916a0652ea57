// Command elector competes for a Lease with client-go's own leader election.
//
// It prints one line for each change ("leading", "lost", "leader <identity>"), so that a test can hold
// our elector against the one that every Go program in a cluster uses, the program we replace included.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
)

func main() {
	kubeconfig := flag.String("kubeconfig", "", "credentials and server")
	namespace := flag.String("namespace", "kube-system", "namespace of the Lease")
	name := flag.String("name", "plndr-cp-lock", "name of the Lease")
	identity := flag.String("identity", "client-go", "holderIdentity to write")
	duration := flag.Duration("lease-duration", 5*time.Second, "lease duration")
	deadline := flag.Duration("renew-deadline", 3*time.Second, "renew deadline")
	retry := flag.Duration("retry-period", time.Second, "retry period")
	flag.Parse()

	config, err := clientcmd.BuildConfigFromFlags("", *kubeconfig)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	elect := leaderelection.LeaderElectionConfig{
		Lock: &resourcelock.LeaseLock{
			LeaseMeta:  metav1.ObjectMeta{Name: *name, Namespace: *namespace},
			Client:     kubernetes.NewForConfigOrDie(config).CoordinationV1(),
			LockConfig: resourcelock.ResourceLockConfig{Identity: *identity},
		},
		ReleaseOnCancel: true,
		LeaseDuration:   *duration,
		RenewDeadline:   *deadline,
		RetryPeriod:     *retry,
		Callbacks: leaderelection.LeaderCallbacks{
			OnStartedLeading: func(context.Context) { fmt.Println("leading") },
			OnStoppedLeading: func() { fmt.Println("lost") },
			OnNewLeader:      func(leader string) { fmt.Println("leader", leader) },
		},
	}
	for ctx.Err() == nil {
		leaderelection.RunOrDie(ctx, elect)
	}
}
