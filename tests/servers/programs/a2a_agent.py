"""An agent behind the A2A SDK's own server, by its REST binding: does what its message says, fails or takes time."""

import asyncio
import os

import httpx
import uvicorn
from a2a.server.agent_execution import AgentExecutor, RequestContext
from a2a.server.events import EventQueue
from a2a.server.request_handlers import DefaultRequestHandler
from a2a.server.routes import create_rest_routes
from a2a.server.tasks import (
    BasePushNotificationSender,
    InMemoryPushNotificationConfigStore,
    InMemoryTaskStore,
    TaskUpdater,
)
from a2a.types.a2a_pb2 import AgentCapabilities, AgentCard, AgentInterface, Part, Task, TaskState, TaskStatus
from starlette.applications import Starlette


class Agent(AgentExecutor):
    """Does what the message says."""

    async def execute(self, context: RequestContext, event_queue: EventQueue) -> None:
        words = context.get_user_input()
        if context.current_task is None:
            await event_queue.enqueue_event(
                Task(id=context.task_id, context_id=context.context_id,
                     status=TaskStatus(state=TaskState.TASK_STATE_SUBMITTED))
            )
        updater = TaskUpdater(event_queue, context.task_id, context.context_id)
        await updater.start_work()
        if "slow" in words:
            await asyncio.sleep(30)
        await asyncio.sleep(0.2)
        if "fail" in words:
            await updater.failed(updater.new_agent_message([Part(text="told to fail")]))
            return
        await updater.add_artifact([Part(text=f"done: {words}")])
        await updater.complete()

    async def cancel(self, context: RequestContext, event_queue: EventQueue) -> None:
        await TaskUpdater(event_queue, context.task_id, context.context_id).cancel()


port = int(os.environ["PORT"])
card = AgentCard(
    name="agent", description="does what it is told", version="1", default_input_modes=["text"], default_output_modes=["text"],
    capabilities=AgentCapabilities(push_notifications=True),
    supported_interfaces=[AgentInterface(protocol_binding="HTTP+JSON", url=f"http://127.0.0.1:{port}", protocol_version="1.0")],
)
configs = InMemoryPushNotificationConfigStore()
handler = DefaultRequestHandler(
    agent_executor=Agent(), task_store=InMemoryTaskStore(), agent_card=card, push_config_store=configs,
    push_sender=BasePushNotificationSender(httpx.AsyncClient(), configs),
)
uvicorn.run(Starlette(routes=create_rest_routes(handler)), host="127.0.0.1", port=port)
