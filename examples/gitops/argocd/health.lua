-- Health of a FineTuneJob or FineTuneSweep for Argo CD: put it into the ConfigMap argocd-cm, under
-- resource.customizations.health.finetune.dev_FineTuneJob and resource.customizations.health.finetune.dev_FineTuneSweep.
local health = {status = "Progressing", message = "Waiting for the operator"}
local status = obj.status
if status == nil or status.conditions == nil or status.observedGeneration ~= obj.metadata.generation then
  return health
end

local found = {}
for _, condition in ipairs(status.conditions) do
  found[condition.type] = condition
end

local function holds(kind)
  return found[kind] ~= nil and found[kind].status == "True"
end

local function say(text, kind)
  health.status = text
  if found[kind] ~= nil then
    health.message = found[kind].message
    if health.message == nil or health.message == "" then
      health.message = found[kind].reason
    end
  end
  return health
end

if holds("Succeeded") then
  return say("Healthy", "Succeeded")
end
if holds("Stalled") then
  return say("Degraded", "Stalled")
end
if status.phase == "Suspended" then
  return say("Suspended", "Succeeded")
end
return say("Progressing", "Succeeded")
