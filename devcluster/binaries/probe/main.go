// probe does what its arguments say, one after the other, and says what came of it. The tests of the development
// cluster run it in pods.
//
//	resolve NAME   the addresses of a name
//	get URL        the status and the first line of an answer, asked for until there is one, for half a minute at most (a
//	               node learns of a Service a moment after it is made); a certificate is not checked
//	serve PORT     answer every request, in the background
//	file PATH      the content of a file
//	env NAME       a variable of the environment
//	write PATH TEXT
//	allocate MIB   take and touch so much memory
//	sleep SECONDS  SIGTERM cuts it short, with exit code 75
//	exit CODE
package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"syscall"
	"time"
)

const (
	interrupted = 75
	patience    = 30 * time.Second
)

func main() {
	terminated := make(chan os.Signal, 1)
	signal.Notify(terminated, syscall.SIGTERM)
	words := os.Args[1:]
	next := func() string {
		if len(words) == 0 {
			fmt.Println("an argument is missing")
			os.Exit(2)
		}
		word := words[0]
		words = words[1:]
		return word
	}
	for len(words) > 0 {
		switch action := next(); action {
		case "resolve":
			resolve(next())
		case "get":
			get(next())
		case "serve":
			serve(next())
		case "file":
			content, err := os.ReadFile(next())
			say("file", string(content), err)
		case "env":
			say("env", os.Getenv(next()), nil)
		case "write":
			path := next()
			say("write", path, os.WriteFile(path, []byte(next()), 0o644))
		case "allocate":
			allocate(number(next()))
		case "sleep":
			select {
			case <-time.After(time.Duration(number(next())) * time.Second):
			case <-terminated:
				fmt.Println("terminated")
				os.Exit(interrupted)
			}
		case "exit":
			os.Exit(number(next()))
		default:
			fmt.Println("unknown action", action)
			os.Exit(2)
		}
	}
}

func resolve(name string) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	addresses, err := net.DefaultResolver.LookupHost(ctx, name)
	say("resolve "+name, fmt.Sprint(addresses), err)
}

func get(url string) {
	client := http.Client{
		Timeout:   10 * time.Second,
		Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}},
	}
	answer, err := client.Get(url)
	for deadline := time.Now().Add(patience); err != nil && time.Now().Before(deadline); {
		time.Sleep(200 * time.Millisecond)
		answer, err = client.Get(url)
	}
	if err != nil {
		say("get "+url, "", err)
		return
	}
	defer answer.Body.Close()
	line, _ := bufio.NewReader(answer.Body).ReadString('\n')
	say("get "+url, fmt.Sprint(answer.StatusCode, " ", line), nil)
}

func serve(port string) {
	listener, err := net.Listen("tcp", ":"+port)
	say("serve", port, err)
	if err == nil {
		go http.Serve(listener, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			fmt.Fprintln(w, "probe answers")
		}))
	}
}

func allocate(mib int) {
	memory := make([]byte, mib<<20)
	for i := 0; i < len(memory); i += os.Getpagesize() {
		memory[i] = 1
	}
	say("allocate", fmt.Sprint(len(memory)), nil)
}

func say(what, result string, err error) {
	if err != nil {
		fmt.Println(what, "failed:", err)
		return
	}
	fmt.Println(what, "gave", result)
}

func number(word string) int {
	value, err := strconv.Atoi(word)
	if err != nil {
		fmt.Println(err)
		os.Exit(2)
	}
	return value
}
