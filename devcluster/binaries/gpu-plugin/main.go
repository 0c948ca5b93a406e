// gpu-plugin advertises GPUs that are not there, by kubelet's own device plugin interface, so that scheduling, quotas
// and preemption of GPUs can be tried on a machine without any. A container that is given one finds no GPU in it.
//
// How many there are is read from a file, again and again, so that GPUs can come and go while pods run.
package main

import (
	"context"
	"flag"
	"fmt"
	"log"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	api "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"
)

const (
	pollInterval    = 300 * time.Millisecond
	registerTimeout = 5 * time.Second
)

type plugin struct {
	api.UnimplementedDevicePluginServer
	countFile string
}

func main() {
	resource := flag.String("resource", "nvidia.com/gpu", "the extended resource to advertise")
	countFile := flag.String("count-file", "", "file that holds the number of devices")
	flag.Parse()
	socket := filepath.Join(api.DevicePluginPath, strings.ReplaceAll(*resource, "/", "-")+".sock")
	for {
		if err := serveUntilKubeletRestarts(*resource, *countFile, socket); err != nil {
			log.Print(err)
		}
		time.Sleep(pollInterval)
	}
}

// serveUntilKubeletRestarts registers with kubelet and serves it. A kubelet that starts empties its folder of plugins
// and makes its socket anew: that is the sign to register again.
func serveUntilKubeletRestarts(resource, countFile, socket string) error {
	before, err := os.Stat(api.KubeletSocket)
	if err != nil {
		return fmt.Errorf("kubelet is not there yet: %w", err)
	}
	if err := os.Remove(socket); err != nil && !os.IsNotExist(err) {
		return err
	}
	listener, err := net.Listen("unix", socket)
	if err != nil {
		return err
	}
	server := grpc.NewServer()
	api.RegisterDevicePluginServer(server, &plugin{countFile: countFile})
	go server.Serve(listener)
	defer server.Stop()
	if err := register(resource, filepath.Base(socket)); err != nil {
		return err
	}
	log.Printf("registered %s with kubelet", resource)
	for {
		time.Sleep(pollInterval)
		now, err := os.Stat(api.KubeletSocket)
		if err != nil || !os.SameFile(before, now) || !now.ModTime().Equal(before.ModTime()) {
			return nil
		}
		if _, err := os.Stat(socket); err != nil {
			return nil
		}
	}
}

func register(resource, endpoint string) error {
	connection, err := grpc.NewClient("unix://"+api.KubeletSocket,
		grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer connection.Close()
	ctx, cancel := context.WithTimeout(context.Background(), registerTimeout)
	defer cancel()
	request := &api.RegisterRequest{Version: api.Version, Endpoint: endpoint, ResourceName: resource}
	if _, err := api.NewRegistrationClient(connection).Register(ctx, request); err != nil {
		return fmt.Errorf("kubelet refuses %s: %w", resource, err)
	}
	return nil
}

func (p *plugin) GetDevicePluginOptions(context.Context, *api.Empty) (*api.DevicePluginOptions, error) {
	return &api.DevicePluginOptions{}, nil
}

func (p *plugin) ListAndWatch(_ *api.Empty, stream grpc.ServerStreamingServer[api.ListAndWatchResponse]) error {
	sent := -1
	for {
		if count, err := p.count(); err != nil {
			log.Print(err)
		} else if count != sent {
			devices := make([]*api.Device, count)
			for i := range devices {
				devices[i] = &api.Device{ID: fmt.Sprintf("dev-gpu-%d", i), Health: api.Healthy}
			}
			if err := stream.Send(&api.ListAndWatchResponse{Devices: devices}); err != nil {
				return err
			}
			sent = count
		}
		select {
		case <-stream.Context().Done():
			return nil
		case <-time.After(pollInterval):
		}
	}
}

func (p *plugin) Allocate(_ context.Context, request *api.AllocateRequest) (*api.AllocateResponse, error) {
	response := &api.AllocateResponse{}
	for _, container := range request.ContainerRequests {
		names := strings.Join(container.DevicesIds, ",")
		response.ContainerResponses = append(response.ContainerResponses,
			&api.ContainerAllocateResponse{Envs: map[string]string{"NVIDIA_VISIBLE_DEVICES": names}})
	}
	return response, nil
}

func (p *plugin) count() (int, error) {
	content, err := os.ReadFile(p.countFile)
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(strings.TrimSpace(string(content)))
}
