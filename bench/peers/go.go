// A bus of Go channels: a map of subscribers under an RWMutex, a buffered channel for each. Answers
// the lines that round.h describes; lossless sends wait, lossy ones select with a default.
package main

import (
	"bufio"
	"fmt"
	"os"
	"runtime"
	"sort"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"
)

const (
	bufferCount    = 1024
	burstCount     = 32
	processClock   = 2
	threadCPUClock = 3
	publisherCount = 16
	multiplier     = 0x9e3779b97f4a7c15
)

type event [8]uint64

type bus struct {
	mutex       sync.RWMutex
	subscribers map[int]chan event
	published   uint64
	delivered   uint64
	dropped     uint64
}

func clockNs(clock uintptr) uint64 {
	var now syscall.Timespec
	syscall.RawSyscall(syscall.SYS_CLOCK_GETTIME, clock, uintptr(unsafe.Pointer(&now)), 0)
	return uint64(now.Sec)*1000000000 + uint64(now.Nsec)
}

var epoch = time.Now()

// The runtime's clock makes no system call.
func nowNs() uint64 { return uint64(time.Since(epoch)) }

func (b *bus) publish(e event, lossless bool) {
	b.mutex.RLock()
	atomic.AddUint64(&b.published, 1)
	for _, subscriber := range b.subscribers {
		if lossless {
			subscriber <- e
			continue
		}
		select {
		case subscriber <- e:
			atomic.AddUint64(&b.delivered, 1)
		default:
			atomic.AddUint64(&b.dropped, 1)
		}
	}
	b.mutex.RUnlock()
}

func fill(number uint64, stamp uint64) event {
	e := event{number, stamp}
	for i := 2; i < len(e); i++ {
		e[i] = number*multiplier + uint64(i)
	}
	return e
}

type reader struct {
	last      [publisherCount]uint64
	delivered uint64
	wrong     uint64
	samples   []uint32
}

func (r *reader) take(e *event, lossless bool, timed bool) {
	number := e[0]
	publisher := number >> 48 % publisherCount
	var wrong bool
	for i := 2; i < len(e); i++ {
		wrong = wrong || e[i] != number*multiplier+uint64(i)
	}
	if lossless {
		wrong = wrong || number != r.last[publisher]+1
	} else {
		wrong = wrong || number <= r.last[publisher]
	}
	if timed {
		r.samples = append(r.samples, uint32(nowNs()-e[1]))
	} else {
		wrong = wrong || e[1] != number
	}
	r.last[publisher] = number
	r.delivered++
	if wrong {
		r.wrong++
	}
}

type publisher struct {
	index     uint64
	published uint64
	cpuNs     uint64
}

func (p *publisher) nextEvent(timed bool) event {
	p.published++
	number := p.index<<48 | p.published
	if timed {
		return fill(number, nowNs())
	}
	return fill(number, number)
}

func (p *publisher) next(b *bus, lossless bool, timed bool) {
	b.publish(p.nextEvent(timed), lossless)
}

// What reading the clock of the thread's processor time adds to a burst: the median of some.
func clockCostNs() uint64 {
	const trials = 64
	costs := make([]uint64, trials)
	for i := range costs {
		before := clockNs(threadCPUClock)
		costs[i] = clockNs(threadCPUClock) - before
	}
	sort.Slice(costs, func(i, k int) bool { return costs[i] < costs[k] })
	return costs[trials/2]
}

// Events that are ready, so that the processor time is that of publishing alone.
func (p *publisher) burst(b *bus, events *[burstCount]event, clockCost uint64) {
	for i := range events {
		events[i] = p.nextEvent(false)
	}
	before := clockNs(threadCPUClock)
	for i := range events {
		b.publish(events[i], false)
	}
	p.cpuNs += clockNs(threadCPUClock) - before - clockCost
}

func (p *publisher) paced(b *bus, rate float64, timed bool, stop *int32) {
	if !timed { // the processor time is that of a thread
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
	}
	var events [burstCount]event
	clockCost := clockCostNs()
	step := 1e9 / rate
	if !timed {
		step *= burstCount
	}
	due := float64(nowNs())
	for atomic.LoadInt32(stop) == 0 {
		if timed {
			p.next(b, false, true)
		} else {
			p.burst(b, &events, clockCost)
		}
		due += step
		for float64(nowNs()) < due {
		}
	}
}

func run(mode string, publisherCount int, readerCount int, seconds float64, rate float64) string {
	lossless := mode == "lossless"
	timed := mode == "latency"
	b := &bus{subscribers: map[int]chan event{}}
	readers := make([]reader, readerCount)
	publishers := make([]publisher, publisherCount)
	var reading, publishing sync.WaitGroup
	var stop int32
	start := make(chan struct{})
	for i := range readers {
		channel := make(chan event, bufferCount)
		b.subscribers[i] = channel
		r := &readers[i]
		for k := range r.last {
			r.last[k] = uint64(k) << 48
		}
		if timed {
			r.samples = make([]uint32, 0, 1<<20)
		}
		reading.Add(1)
		go func() {
			defer reading.Done()
			for e := range channel {
				r.take(&e, lossless, timed)
			}
		}()
	}
	for i := range publishers {
		p := &publishers[i]
		p.index = uint64(i)
		publishing.Add(1)
		go func() {
			defer publishing.Done()
			<-start
			if rate > 0 {
				p.paced(b, rate, timed, &stop)
			}
			for atomic.LoadInt32(&stop) == 0 {
				p.next(b, lossless, timed)
			}
		}()
	}
	before := nowNs()
	processBefore := clockNs(processClock)
	close(start)
	time.Sleep(time.Duration(seconds * 1e9))
	atomic.StoreInt32(&stop, 1)
	publishing.Wait()
	for _, channel := range b.subscribers {
		close(channel)
	}
	reading.Wait()
	elapsed := float64(nowNs()-before) * 1e-9
	processNs := clockNs(processClock) - processBefore
	return answer(publishers, readers, lossless, elapsed, processNs)
}

func answer(publishers []publisher, readers []reader, lossless bool, elapsed float64,
	processNs uint64) string {
	var published, cpuNs, delivered, wrong uint64
	var p50 float64
	for i := range publishers {
		published += publishers[i].published
		cpuNs += publishers[i].cpuNs
	}
	for i := range readers {
		delivered += readers[i].delivered
		wrong += readers[i].wrong
		if samples := readers[i].samples; len(samples) > 0 {
			sort.Slice(samples, func(a, b int) bool { return samples[a] < samples[b] })
			p50 += float64(samples[len(samples)/2]) / float64(len(readers))
		}
	}
	if wrong > 0 || lossless && delivered != published*uint64(len(readers)) {
		return "error events were lost, torn or out of order"
	}
	perDelivery := 0.0
	if delivered > 0 {
		perDelivery = float64(processNs) / float64(delivered)
	}
	return fmt.Sprintf("published=%d delivered=%d seconds=%.6f publish_ns=%.3f process_ns=%.3f "+
		"p50_ns=%.0f", published, delivered, elapsed, float64(cpuNs)/float64(published), perDelivery,
		p50)
}

func main() {
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		var mode string
		var publishers, readers int
		var seconds, rate float64
		if _, err := fmt.Sscan(lines.Text(), &mode, &publishers, &readers, &seconds, &rate); err != nil {
			fmt.Println("error", err)
			os.Exit(1)
		}
		fmt.Println(run(mode, publishers, readers, seconds, rate))
	}
}
