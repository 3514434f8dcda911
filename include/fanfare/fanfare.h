/* All of the library's public headers but those of providers' authors. */
#ifndef FANFARE_FANFARE_H
#define FANFARE_FANFARE_H

#include <fanfare/batch.h>
#include <fanfare/broker.h>
#include <fanfare/broker_stats.h>
#include <fanfare/bus.h>
#include <fanfare/cancel.h>
#include <fanfare/capture.h>
#include <fanfare/cloudevents.h>
#include <fanfare/config.h>
#include <fanfare/cursor.h>
#include <fanfare/default.h>
#include <fanfare/env.h>
#include <fanfare/event.h>
#include <fanfare/fault.h>
#include <fanfare/feed.h>
#include <fanfare/group.h>
#include <fanfare/handler.h>
#include <fanfare/hooks.h>
#include <fanfare/json.h>
#include <fanfare/keep.h>
#include <fanfare/kind.h>
#include <fanfare/metrics.h>
#include <fanfare/outbox.h>
#include <fanfare/outbox_postgres.h>
#include <fanfare/pattern.h>
#include <fanfare/prometheus.h>
#include <fanfare/reader.h>
#include <fanfare/records.h>
#include <fanfare/state.h>
#include <fanfare/status.h>
#include <fanfare/store.h>
#include <fanfare/subscription.h>
#include <fanfare/tee.h>
#include <fanfare/trace.h>

#endif
