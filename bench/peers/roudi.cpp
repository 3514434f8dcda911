// iceoryx's broker of shared memory inside this process, for iceoryx.c.
#include <iceoryx_hoofs/log/logmanager.hpp>
#include <iceoryx_posh/iceoryx_posh_config.hpp>
#include <iceoryx_posh/roudi/iceoryx_roudi_components.hpp>
#include <iceoryx_posh/internal/roudi/roudi.hpp>
#include <iceoryx_posh/runtime/posh_runtime_single_process.hpp>

extern "C" void roudi_start();

void roudi_start()
{
    iox::log::LogManager::GetLogManager().SetDefaultLogLevel(iox::log::LogLevel::kOff);
    static iox::roudi::IceOryxRouDiComponents components(iox::RouDiConfig_t().setDefaults());
    static iox::roudi::RouDi roudi(
        components.rouDiMemoryManager, components.portManager,
        iox::roudi::RouDi::RoudiStartupParameters{iox::roudi::MonitoringMode::OFF, false});
    static iox::runtime::PoshRuntimeSingleProcess runtime("bench");
}
