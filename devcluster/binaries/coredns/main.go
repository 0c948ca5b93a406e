// The cluster's name server: CoreDNS with the plugins that a development cluster uses. Leaving out the cloud
// providers' plugins takes the build from four minutes to one.
package main

import (
	"github.com/coredns/coredns/core/dnsserver"
	"github.com/coredns/coredns/coremain"
	_ "github.com/coredns/coredns/plugin/bind"
	_ "github.com/coredns/coredns/plugin/errors"
	_ "github.com/coredns/coredns/plugin/hosts"
	_ "github.com/coredns/coredns/plugin/kubernetes"
	_ "github.com/coredns/coredns/plugin/ready"
	_ "github.com/coredns/coredns/plugin/template"
)

func main() {
	// The order in which a query passes through the plugins: the template comes last, as it says that whatever the
	// others do not know does not exist. Without it such names would fail slowly, as errors of the server.
	dnsserver.Directives = []string{"bind", "ready", "errors", "kubernetes", "hosts", "template"}
	coremain.Run()
}
